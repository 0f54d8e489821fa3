"""The sentences of the page about its images and pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.report.html.context import _described, _pairs_note, _seen_note, _threshold_rows
from siamkit.report.html.heldout import Decision
from siamkit.runs.seen import Seen, Use


def test_the_page_says_what_its_images_chose_and_what_cannot_be_checked():
    assert _seen_note(None) == _seen_note(Seen(3)) == ""
    used = Use(found=(0, 1, 2))
    optimistic = "so the figures are optimistic for other images."
    assert _seen_note(Seen(3, epoch=used)) == (
        f" These images chose the best epoch, {optimistic} A test split gives unbiased figures."
    )
    threshold = _seen_note(Seen(3, threshold=Use(found=(0, 1))))
    assert threshold.startswith(" 2 of the 3 images chose the threshold")
    assert threshold.endswith(optimistic), "no test split would help"
    unknown = _seen_note(Seen(3, epoch=used, threshold=Use(unknown="it is gone")))
    assert unknown.endswith(
        " A test split gives unbiased figures. Whether others of these images chose the threshold "
        "cannot be checked: it is gone."
    )


def pairs(known: bool, every: bool) -> str:
    verified = SimpleNamespace(
        metrics=SimpleNamespace(same=1200, different=34_000), pairs=SimpleNamespace(all=every)
    )
    tuples = object() if known else None
    return _pairs_note(
        verified, SimpleNamespace(held=SimpleNamespace(images=SimpleNamespace(tuples=tuples)))
    )


@pytest.mark.parametrize(
    ("known", "every", "which"),
    [
        (False, True, "all 35,200 pairs of these images"),
        (False, False, "a random sample of 35,200 pairs"),
        (True, True, "the 35,200 pairs that the data lists"),
    ],
)
def test_the_pairs_are_counted(known: bool, every: bool, which: str):
    assert pairs(known, every) == f"The metrics use {which}: 1,200 same, 34,000 different."


class Images:
    """Three images."""

    def __len__(self) -> int:
        return 3

    def __str__(self) -> str:
        return "3 images of 2 classes"


def test_a_part_of_the_images_is_described_by_the_number_of_all():
    held: Any = SimpleNamespace(held=SimpleNamespace(images=Images()), total=3)
    assert _described(held) == "3 images of 2 classes"
    held.total = 9
    assert _described(held) == "9 images"


def test_rates_that_were_foreseen_are_a_column_only_with_a_calibration():
    rows = _threshold_rows(Decision(0.5, "own", None, 0.1, 0.2))
    assert rows and {len(row) for row in rows} == {2}
