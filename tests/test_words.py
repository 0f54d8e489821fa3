from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.words import inert, plural, plural_of


@pytest.mark.parametrize("number, noun, expected", [
    (0, "epoch", "0 epochs"), (1, "epoch", "1 epoch"), (2, "epoch", "2 epochs"),
    (1, "class", "1 class"), (3, "class", "3 classes"), (2, "query", "2 queries"),
    (2, "key", "2 keys"), (2, "batch", "2 batches"), (2, "box", "2 boxes"),
    (2, "identity", "2 identities"), (2, "unreadable image", "2 unreadable images"),
])  # fmt: skip
def test_a_number_comes_with_its_noun(number, noun, expected):
    assert plural(number, noun) == expected


def test_an_irregular_plural_is_given():
    pair = "pair of images", "pairs of images"
    assert plural(1, *pair) == "1 pair of images"
    assert plural(2, *pair) == "2 pairs of images"


@given(st.integers(), st.sampled_from(["image", "class", "entry", "day"]))
def test_only_one_is_singular(number, noun):
    assert plural(number, noun).endswith(f" {noun}") is (number == 1)
    assert plural_of(noun) != noun


@given(st.text(min_size=1))
def test_a_path_is_no_formula_and_still_the_same_file(path):
    found = inert(path)
    assert found[0] not in "=+-@\t\r\n＝＋－＠"  # noqa: RUF001
    assert found in (path, f"./{path}") and Path(found) == Path(path)
    assert inert("a=b") == "a=b" and inert("=1+1.png") == "./=1+1.png"
