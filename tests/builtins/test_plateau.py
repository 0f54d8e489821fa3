"""Plateaus of a metric, counted from its history."""

from __future__ import annotations

import math

import pytest

from siamkit.builtins.plateau import plateaus
from siamkit.interfaces import Progress

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "patience", "options", "count"),
    [
        ([], 1, {}, 0),
        ([0.5], 1, {}, 0),
        ([0.5, 0.5], 1, {}, 1),
        ([0.5, 0.5, 0.5], 2, {}, 1),
        ([0.5, 0.5, 0.6, 0.6], 2, {}, 0),  # an improvement starts the count again
        ([0.5, 0.4, 0.4, 0.4, 0.4], 2, {}, 2),  # after a plateau it starts again too
        ([0.5, 0.4, 0.4, 0.5, 0.5], 2, {}, 2),  # and the best value stays
        ([NAN, NAN], 2, {}, 1),  # no number is no improvement, from the first epoch
        ([NAN], 2, {}, 0),
        ([NAN, 0.5, 0.5], 2, {}, 0),
        ([0.5, 0.75, 1.0], 1, {"min_delta": 0.25}, 1),  # the second is no improvement
        ([0.5, 0.76, 1.02], 1, {"min_delta": 0.25}, 0),
        ([0.5, 0.5, 0.5, 0.5], 2, {"start": 2.0}, 1),  # epochs 2 and 3 count
        ([0.5, 0.5, 0.5, 0.5], 2, {"start": 2.5}, 0),
        ([0.5, 0.6, 0.5, 0.5], 1, {"start": 1.0}, 2),  # an earlier epoch can set the best value
    ],
)
def test_a_plateau_is_a_number_of_epochs_without_an_improvement(values, patience, options, count):
    history = tuple({"recall@1": value} for value in values)
    progress = Progress(len(values), 99, history=history)
    assert plateaus(progress, patience, options.pop("min_delta", 0.0), **options) == count


def test_epochs_that_have_not_ended_do_not_count():
    history = ({"recall@1": 0.5},) * 9
    assert plateaus(Progress(3, 99, history=history), 1, 0.0) == 2
