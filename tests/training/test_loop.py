"""The decisions of the epoch loop, on made-up runs. ``test_fit.py`` has whole runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.interfaces import FreezePlan, Phase
from siamkit.training import loop
from siamkit.training.loop import Trainer
from siamkit.training.state import RunState


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
    for name in ("load_sets", "Scorer", "Heads", "forecast", "batch_notices"):
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


class Starting:
    """An engine and an epoch trainer that note what a phase does at its start."""

    def __init__(self, checked: Any = None) -> None:
        self.entered: list[tuple[range, Any]] = []
        self.begun: list[Any] = []
        self.kept: list[Any] = []
        self.compared: list[Any] = []
        self._checked = checked

    def enter(self, epochs: range, before: Any) -> Any:
        self.entered.append((epochs, before))
        return SimpleNamespace(epochs=epochs, decision="entered")

    def prepare(self, execution: Any, epoch: int) -> Any:
        return execution

    def checked(self, execution: Any, epoch: int, sample: Any) -> Any:
        self.compared.append((epoch, sample))
        return self._checked or execution

    def begin_phase(self, execution: Any) -> None:
        self.begun.append(execution)

    def steps(self) -> Any:
        return [[SimpleNamespace(sample="the first batch")], [SimpleNamespace(sample="another")]]


def starting(parts: Starting, **state: Any) -> Any:
    """A trainer in the phase of the epochs 1 to 3, whose plan is applied."""
    plan = FreezePlan(frozenset({"h"}))
    made: Any = object.__new__(Trainer)
    schedule = SimpleNamespace(phase_at=lambda epoch, history: Phase(1, 4, plan))
    made.setup = SimpleNamespace(schedule=schedule, controller=SimpleNamespace(plan=plan))
    made.state = RunState(**{"epoch": 1, "phase_start": 0, **state})
    made.engine = made.epoch = parts
    made.execution, made._keep = None, parts.kept.append
    return made, plan


@pytest.mark.parametrize(
    ("state", "before", "begins"),
    [
        ({}, None, True),
        ({"decision": "of another phase"}, None, True),
        ({"phase_start": 1, "decision": "before", "epoch_step": 2}, "before", False),
        ({"phase_start": 1, "decision": "before", "epoch": 2}, "before", False),
        ({"phase_start": 1, "decision": "before"}, "before", True),
    ],
)
def test_a_phase_that_is_resumed_goes_on_as_it_was_decided(
    state: dict[str, Any], before: str | None, begins: bool
) -> None:
    parts = Starting()
    made, plan = starting(parts, **state)
    found = made._start_phase(plan)
    epoch = state.get("epoch", 1)
    assert parts.entered == [(range(epoch, 4), before)]
    assert parts.begun == ([found] if begins else [])
    assert parts.kept == [found] and made.execution is found and made.state.phase_start == 1
    assert parts.compared == [(epoch, "the first batch")]
    assert made._start_phase(plan) is found and len(parts.entered) == 1, "the phase goes on"
    assert parts.kept == [found], "it is told once"


def test_an_execution_that_is_replaced_is_told_again() -> None:
    other = SimpleNamespace(epochs=range(1, 4), decision="whole")
    parts = Starting(checked=other)
    made, plan = starting(parts)
    assert made._start_phase(plan) is made.execution is other
    assert [execution.decision for execution in parts.kept] == ["entered", "whole"]


def test_a_phase_that_lasts_longer_than_was_forecast_is_entered_again() -> None:
    parts = Starting()
    made, plan = starting(parts)
    made.execution = SimpleNamespace(epochs=range(1))
    made._start_phase(plan)
    assert [epochs for epochs, _ in parts.entered] == [range(1, 4)]
