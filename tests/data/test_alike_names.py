"""Names that differ only in how they are written."""

import pytest

from siamkit.data.alike_names import alike_notices


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("anna", "Anna"),
        ("ben", "ben "),
        ("new york", "new  york"),
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("007", "7"),
        ("1.10", "1.1"),
        ("0", "-0"),
        ("stra\u00dfe", "STRASSE"),
    ],
)
def test_two_spellings_of_a_name_are_told(one: str, other: str) -> None:
    (notice,) = alike_notices("class", [other, "dora", one, one])
    assert notice.startswith("2 classes have names that differ only in case, spaces,")


@pytest.mark.parametrize(
    "names", [["anna", "hanna"], ["1", "10"], ["v1.10", "v1.1"], ["a", "a", "a"], ["", " x"], []]
)
def test_other_names_are_not(names: list[str]) -> None:
    assert alike_notices("class", names) == []


def test_names_that_look_the_same_are_shown_with_escapes() -> None:
    (notice,) = alike_notices("group", ["caf\u00e9", "cafe\u0301", "P1", "p1"])
    assert notice.endswith("'P1' and 'p1', 'cafe\\u0301' and 'caf\\xe9'")
    assert "4 groups" in notice
