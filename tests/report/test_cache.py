import re
from datetime import datetime

import pytest

from siamkit.report.cache import cache_table, features_of, removed_table

STORE = {
    "store": "0123456789abcdef", "rows": 480, "bytes": 3_000_000, "in_use": False,
    "last_used": datetime(2026, 3, 4, 5, 6).astimezone().isoformat(),
    "description": {"backbone": "resnet50", "boundary": "layer4", "image_size": [224, 192],
                    "dtype": "float16"},
}  # fmt: skip
OPEN = {**STORE, "store": "fedcba9876543210", "bytes": 1_000_000, "in_use": True}


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_a_store_says_what_it_holds_and_when_it_was_used(render):
    found = rows(render(cache_table("folder/", [STORE, OPEN])))
    features = "resnet50 → layer4, 224 x 192 px, float16"
    assert found[0] == ["store", "features of", "count", "size", "last used"]
    assert found[2:] == [
        ["0123456789ab", features, "480", "3.00 MB", "2026-03-04 05:06"],
        ["fedcba987654", features, "480", "1.00 MB", "now"],
        [""],
        ["2 stores, 4.00 MB in folder/"],
    ]


def test_an_empty_cache_is_one_line(render):
    assert render(cache_table("folder/", [])) == "no cached features in folder/\n"


def test_what_was_removed_is_shown_with_what_is_left(render):
    text = render(removed_table("folder/", [STORE, OPEN], [OPEN, OPEN, STORE]))
    assert text.splitlines()[-1] == (
        "removed 2 stores (4.00 MB); 3 stores left (5.00 MB, 2 in use) in folder/"
    )
    assert "0123456789ab" in text
    text = render(removed_table("folder/", [STORE], [STORE]))
    assert text.splitlines()[-1] == "removed 1 store (3.00 MB); 1 store left (3.00 MB) in folder/"
    text = render(removed_table("folder/", [], []))
    assert text == "removed 0 stores (0 B); 0 stores left in folder/\n"


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ({"backbone": "b", "boundary": "l", "image_size": 64}, "b → l, 64 px"),
        ({"backbone": "b", "dtype": "float32"}, "b, float32"),
        ({"boundary": "l"}, "l"),
        ({}, "unknown"),
    ],
)
def test_what_a_description_lacks_is_left_out(description, text):
    assert features_of(description) == text
