"""The bounds of a schedule's multipliers, and the moments at which the kit asks for them."""

from __future__ import annotations

import pytest

from siamkit import testing
from siamkit.interfaces import Progress
from siamkit.testing.schedulers import _moments


@pytest.mark.parametrize("scale", [0.01, 1, 100.0])
def test_a_constant_multiplier_within_the_bounds_is_right(scale: float) -> None:
    testing.check_scheduler(lambda progress: scale)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.0099, "with the largest between 0.01 and 100"),
        (100.1, "with the largest between 0.01 and 100"),
        (0, "a scale above zero in at least one step"),
        (-0.1, "a finite number that is not negative"),
        (float("nan"), "a finite number that is not negative"),
    ],
)
def test_a_multiplier_beyond_the_bounds_is_wrong(scale: float, expected: str) -> None:
    with pytest.raises(AssertionError, match=expected):
        testing.check_scheduler(lambda progress: scale)


def test_an_epoch_without_a_rate_is_wrong() -> None:
    with pytest.raises(AssertionError, match=r"zero throughout epochs \{1\}"):
        testing.check_scheduler(lambda progress: float(progress.epoch != 1))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_each_step_is_a_moment_and_an_epoch_of_unknown_length_is_one(steps: int) -> None:
    history = ({"auc": 0.5}, {"auc": 0.75})
    found = _moments(2, steps, "auc", history)
    assert found == [
        Progress(epoch, 2, epoch * steps + i, 2 * steps, history[:epoch], "auc")
        for epoch in (0, 1)
        for i in range(max(steps, 1))
    ]
