from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.words import data_size, inert, plural, plural_of, readable, short_count


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


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (1000, "1.00 k"), (2048, "2.05 k"), (9994, "9.99 k"),
        (9995, "10.0 k"), (23_508_032, "23.5 M"), (1_114_752, "1.11 M"), (999_499, "999 k"),
        (999_500, "1.00 M"), (5_000_000_000, "5.00 G"), (99_949, "99.9 k"), (99_950, "100 k"),
        (10**15, "1000 T"), (-2048, "-2.05 k"), (999_499_999, "999 M"),
    ],
)  # fmt: skip
def test_counts_have_three_digits(number, text):
    assert short_count(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (14_656, "14.7 kB"),
        (92_300_000, "92.3 MB"),
        (1_500_000_000, "1.50 GB"),
        (2 * 10**12, "2.00 TB"),
        (2_345 * 10**12, "2345 TB"),
    ],
)
def test_sizes_have_units(number, text):
    assert data_size(number) == text


@given(st.integers(0, 10**17))
def test_a_count_is_within_half_a_percent(number):
    value, _, unit = short_count(number).partition(" ")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
    assert float(value) * scale == pytest.approx(number, rel=0.0051)


def test_text_that_is_not_valid_unicode_becomes_readable():
    assert readable("caf\udce9 \u00e9") == "caf\\udce9 \u00e9"
