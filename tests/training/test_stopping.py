"""Runs that stop early, before their policy has unfrozen what it would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import siamkit
from siamkit import api
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.interfaces import Stage
from siamkit.training.build import build_policy
from siamkit.training.stopping import out_of_patience, stopped_before

STAGES = tuple(Stage(name, (f"{name}.w",)) for name in ("stem", "layer1", "layer2", "head"))


def said(freeze: dict[str, Any], done: int, epochs: int = 9, patience: int = 1) -> str | None:
    policy = build_policy(api.load_config({"freeze": freeze}), api.registries())
    schedule = FreezeSchedule(policy, STAGES, epochs, name=freeze["name"])
    return stopped_before(schedule, [{"recall@1": 0.5}] * done, patience)


def waits(freeze: dict[str, Any], values: list[float], patience: int | None) -> bool:
    policy = build_policy(api.load_config({"freeze": freeze}), api.registries())
    schedule = FreezeSchedule(policy, STAGES, 20, monitor="m")
    return not out_of_patience(schedule, [{"m": value} for value in values], patience)


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 5))
def test_patience_counts_the_epochs_since_the_best(values: list[float], patience: int) -> None:
    since = len(values) - 1 - values.index(max(values)) if values else 0
    assert waits({"name": "freeze-all"}, values, patience) is (since < patience)
    assert waits({"name": "freeze-all"}, values, None)


def test_patience_counts_anew_from_each_epoch_that_begins_to_train_a_stage() -> None:
    """The policy unfreezes in epochs 4, 7 and 10, counted from 1."""
    freeze = {"name": "gradual-unfreeze", "every": 3}

    def stops(patience: int) -> list[int]:
        """Return the numbers of finished epochs after which the run would stop."""
        worse = [0.9, *[0.5] * 12]
        return [done for done in range(1, 14) if not waits(freeze, worse[:done], patience)]

    assert stops(1) == [2, 4, 5, 7, 8, 10, 11, 12, 13]
    assert stops(2) == [5, 8, 11, 12, 13]
    assert stops(3) == [12, 13]


def test_the_stages_that_the_next_epochs_would_train_are_named() -> None:
    assert said({"name": "stages", "warmup": 5}, done=2, patience=1) == (
        "the run stopped early in epoch 2, before policy 'stages' trained layer1, layer2, which it "
        "does from epoch 6 on: wait longer for an improvement (train={'patience': 4}), or unfreeze "
        "earlier"
    )
    text = said({"name": "gradual-unfreeze", "every": 2}, done=5) or ""
    assert "before policy 'gradual-unfreeze' trained layer1, which it does from epoch 5" not in text
    assert "trained stem, which it does from epoch 7 on" in text


def test_a_policy_that_follows_the_metric_would_have_gone_on() -> None:
    freeze = {"name": "gradual-unfreeze", "trigger": "plateau", "patience": 3}
    text = said(freeze, done=2) or ""
    assert "trained layer2, which it does from epoch 5 on" in text
    # The run itself may be too short; it does not matter, because more epochs are no use without
    # more patience.
    assert said(freeze, done=2, epochs=3) == text


@pytest.mark.parametrize(
    ("freeze", "done", "epochs"),
    [
        ({"name": "freeze-all"}, 2, 9), ({"name": "full"}, 2, 9),
        ({"name": "stages", "warmup": 2}, 3, 9),
        ({"name": "stages", "warmup": 8}, 3, 8),  # told before the run
        # All have trained, and are frozen again or not.
        ({"name": "gradual-unfreeze", "window": 1}, 4, 9),
    ],
)  # fmt: skip
def test_nothing_is_said_of_a_policy_that_has_trained_all_that_it_would(
    freeze: dict[str, Any], done: int, epochs: int
) -> None:
    assert said(freeze, done, epochs) is None


def test_a_run_says_so_when_it_stops(run_values: Callable[..., dict[str, Any]]) -> None:
    events: list[siamkit.Event] = []
    values = run_values(
        train={"epochs": 9, "patience": 1}, optimizer={"lr": 1e-9},
        freeze={"name": "stages", "warmup": 5},
    )  # fmt: skip
    result = api.fit(values, listeners=[events.append])
    assert result["stopped_early"]
    texts = [event.data["text"] for event in events if event.name == "notice"]
    assert any("before policy 'stages' trained" in text for text in texts)
