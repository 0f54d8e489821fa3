"""The simulated runs that the kit shows to policies and schedulers."""

from __future__ import annotations

from itertools import pairwise

from siamkit.testing.common import histories

EPOCHS = 12


def test_the_simulated_runs_take_the_courses_that_their_labels_say() -> None:
    courses = {
        label: [epoch[monitor] for epoch in history]
        for label, (monitor, history) in histories(EPOCHS).items()
    }
    assert all(a < b for a, b in pairwise(courses["rising"]))
    assert len(set(courses["flat"])) == 1
    assert all(a > b for a, b in pairwise(courses["falling"]))
    for label in ("noisy", "noisy, on pairs"):
        steps = [b > a for a, b in pairwise(courses[label])]
        assert len(courses[label]) == EPOCHS and {True, False} == set(steps)
    assert courses["rising"][0] < 0.5 < courses["falling"][0]


def test_the_metrics_of_a_simulated_run_are_those_of_a_real_one() -> None:
    for monitor, history in histories(EPOCHS).values():
        for epoch in history:
            held_out = [name for name in epoch if not name.startswith("train_")]
            assert monitor in held_out
            assert {f"train_{name}" for name in held_out} | {"train_loss"} <= set(epoch)
            assert all(0 <= value <= 1 for value in epoch.values())


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    for label, (monitor, history) in histories(EPOCHS).items():
        assert histories(EPOCHS - 5)[label] == (monitor, history[:-5])
