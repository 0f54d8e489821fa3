"""The common parts of the kit: simulated runs, and how a failure is said."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from siamkit.testing.common import Expect, NotConforming, histories, loose_leaves

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


def test_the_simulated_values_stay_as_they_are_since_policies_are_tuned_to_them() -> None:
    courses = {
        label: [epoch[monitor] for epoch in history]
        for label, (monitor, history) in histories(11).items()
    }
    noisy = [0.31, 0.62, 0.18, 0.55, 0.07, 0.71, 0.44, 0.29, 0.66, 0.12, 0.31]
    assert courses["noisy"] == courses["noisy, on pairs"] == noisy
    assert courses["flat"] == [0.5] * 11
    assert courses["rising"][:3] == pytest.approx([0, 0.2, 0.36])
    assert courses["falling"][:3] == pytest.approx([1, 0.9, 0.81])
    labelled, paired = (histories(1)[label][1][0] for label in ("noisy", "noisy, on pairs"))
    values = {"recall@1": 0.31, "map@r": 0.8 * 0.31}
    own = {f"train_{name}": value for name, value in values.items()}
    assert labelled == pytest.approx({**values, **own, "train_loss": 0.69})
    values = {"auc": 0.31, "eer": 0.69}
    own = {f"train_{name}": value for name, value in values.items()}
    assert paired == pytest.approx({**values, **own, "train_loss": 0.69})


class Broken:
    """An object whose text fails."""

    def __str__(self) -> str:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("got", "shown"),
    [("text", "text"), ([1, "a"], "[1, 'a']"), (Broken(), "a Broken whose text fails (KeyError)")],
)
def test_a_failure_says_what_was_expected_what_came_and_who_suffers(got: Any, shown: str) -> None:
    expect = Expect("loss 'mine'").within("pairs")
    expect(True, "a value", got, "Nobody.")
    with pytest.raises(NotConforming) as caught:
        expect(False, "a value", got, "Users would wait.")
    said = f"loss 'mine': pairs: expected a value; got {shown}. Users would wait."
    assert str(caught.value) == said


def test_whatever_ends_a_block_is_a_failure_except_ctrl_c() -> None:
    expect = Expect("x")
    for error, text in ((ValueError("bad"), "ValueError, raised in build: bad"),
                        (SystemExit(3), "SystemExit, raised in build: 3")):  # fmt: skip
        with pytest.raises(NotConforming, match=f"expected no error in build; got {text}"):
            with expect.during("in build", "It stops."):
                raise error
    with pytest.raises(NotConforming, match="expected a value; got ValueError"):
        with expect.during("in build", "It stops.", "a value"):
            raise ValueError
    with pytest.raises(NotConforming, match=r"^own$"), expect.during("in build", "It stops."):
        raise NotConforming("own")
    with pytest.raises(KeyboardInterrupt), expect.during("in build", "It stops."):
        raise KeyboardInterrupt


def test_leaves_that_a_module_does_not_own_are_named() -> None:
    module = torch.nn.Linear(2, 2)
    module.hidden = [torch.ones(3, requires_grad=True)]
    module.scale = torch.ones(2, requires_grad=True)
    x = torch.ones(1, 2, requires_grad=True)
    output = module(x) * module.scale + module.hidden[0].sum()
    assert loose_leaves(output, module, (x,)) == ["a tensor [3]", "scale [2]"]
    assert loose_leaves(output, module) == ["a tensor [1, 2]", "a tensor [3]", "scale [2]"]
    assert loose_leaves(module(x), module, (x,)) == []
