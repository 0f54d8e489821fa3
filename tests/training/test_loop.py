"""The decisions of the epoch loop, on made-up runs. ``test_fit.py`` has whole runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.interfaces import FreezePlan, Phase, Stage
from siamkit.training import loop
from siamkit.training.loop import Trainer
from siamkit.training.state import RunState

BODY, HEAD = Stage("body", ("b",)), Stage("head", ("h",))


def trainer_of(trains: list[bool], best: int, **state: Any) -> Any:
    """A trainer whose backbone trains in some epochs, and whose metric was best in one."""
    history = [{"m": 0.9 if epoch == best else 0.1} for epoch in range(len(trains))]
    plans = [FreezePlan(frozenset({"b", "h"} if one else {"h"})) for one in trains]
    phases = [Phase(epoch, epoch + 1, plan) for epoch, plan in enumerate(plans)]
    schedule = SimpleNamespace(stages=(BODY, HEAD), phases=lambda _: phases, monitor="m")
    made: Any = object.__new__(Trainer)
    made.setup = SimpleNamespace(schedule=schedule)
    made.state = RunState(**{"history": history, "solved": True, **state})
    return made


@pytest.mark.parametrize(
    ("trains", "best", "epoch"),
    [
        ([False, True, True, True], 2, 2),
        ([False, True, True], 1, 1),
        ([False, True, True], 0, 2),  # in the best epoch, the backbone was still frozen
        ([False, False, True], 2, 2),
        ([False, False, True], 1, 2),
        ([True], 0, 0),
        ([False, False], 1, None),
    ],
)
def test_the_head_is_computed_again_for_the_best_epoch_with_a_trained_backbone(
    trains: list[bool], best: int, epoch: int | None
) -> None:
    assert trainer_of(trains, best)._refit_epoch() == epoch


def test_a_backbone_that_did_not_train_yet_leaves_the_head_as_it_is() -> None:
    made = trainer_of([False, False, True], 1)
    made.state.history = made.state.history[:2]
    assert made._refit_epoch() is None


@pytest.mark.parametrize("state", [{"solved": False}, {"refit": {"m": 0.5}}, {"history": []}])
def test_only_a_solved_head_is_computed_again_and_only_once(state: dict[str, Any]) -> None:
    assert trainer_of([True, True], 1, **state)._refit_epoch() is None


@pytest.mark.parametrize(("second_view", "visits"), [(False, 7), (True, 14)])
def test_the_visits_of_an_epoch_count_each_view(
    monkeypatch: pytest.MonkeyPatch, second_view: bool, visits: int
) -> None:
    class Epoch:
        steps_per_epoch = 2

        def __init__(self, *_: Any) -> None:
            pass

        def steps(self) -> Any:
            return [[SimpleNamespace(images=range(4))], [SimpleNamespace(images=range(3))]]

    asked: list[int] = []
    for name in ("load_sets", "Scorer", "forecast", "batch_notices"):
        monkeypatch.setattr(loop, name, lambda *_: ())
    monkeypatch.setattr(loop, "EpochTrainer", Epoch)
    monkeypatch.setattr(loop, "engine_of", lambda setup, sets, count, reports: asked.append(count))
    setup: Any = SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(checkpoint_interval=None)),
        loss=SimpleNamespace(second_view=second_view),
    )
    splits: Any = SimpleNamespace(train=None)
    none: Any = None
    Trainer(setup, splits, RunState(), none, none, none)
    assert asked == [visits]
