"""For which epoch's network the head is computed again at the end, on made-up runs.

``test_solving.py`` has whole runs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from siamkit.interfaces import FreezePlan, Phase, Stage
from siamkit.training.heads import Heads
from siamkit.training.state import RunState

BODY, HEAD = Stage("body", ("b",)), Stage("head", ("h",))


def heads_of(trains: list[bool], best: int, **state: Any) -> Heads:
    """The heads of a run whose backbone trains in some epochs, and whose metric was best in one."""
    history = [{"m": 0.9 if epoch == best else 0.1} for epoch in range(len(trains))]
    plans = [FreezePlan(frozenset({"b", "h"} if one else {"h"})) for one in trains]
    phases = [Phase(epoch, epoch + 1, plan) for epoch, plan in enumerate(plans)]
    schedule = SimpleNamespace(stages=(BODY, HEAD), phases=lambda _: phases, monitor="m")
    net = SimpleNamespace(head=SimpleNamespace(computed=False))
    run = RunState(**{"history": history, "solved": True, **state})
    setup = SimpleNamespace(schedule=schedule, net=net)
    scorer: Any = SimpleNamespace(setup=setup, state=run, emit=None)
    none: Any = None
    return Heads(scorer, none, {})


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
    assert heads_of(trains, best).refit_epoch() == epoch


def test_a_backbone_that_did_not_train_yet_leaves_the_head_as_it_is() -> None:
    made = heads_of([False, False, True], 1)
    made.state.history = made.state.history[:2]
    assert made.refit_epoch() is None


@pytest.mark.parametrize("state", [{"solved": False}, {"refit": {"m": 0.5}}, {"history": []}])
def test_only_a_solved_head_is_computed_again_and_only_once(state: dict[str, Any]) -> None:
    assert heads_of([True, True], 1, **state).refit_epoch() is None


def test_a_head_that_is_computed_after_each_epoch_is_that_of_the_best_already() -> None:
    made = heads_of([True, True], 1)
    made.setup.net.head.computed = True
    assert made.refit_epoch() is None


@pytest.mark.parametrize(
    ("trained", "closed", "stays"), [(0.6, 0.5, True), (0.5, 0.5, True), (0.5, 0.6, False)]
)
def test_a_head_of_another_run_stays_unless_its_closed_form_is_better(
    monkeypatch: pytest.MonkeyPatch, trained: float, closed: float, stays: bool
) -> None:
    head, told = nn.Linear(1, 1), []
    before = head.weight.item()
    scorer: Any = SimpleNamespace(
        setup=SimpleNamespace(
            net=SimpleNamespace(head=head), schedule=SimpleNamespace(monitor="m")
        ),
        state=RunState(inherited=True), emit=lambda name, data: told.append((name, data)),
    )  # fmt: skip
    none: Any = None
    heads, scores = Heads(scorer, none, {}), iter([trained, closed])
    monkeypatch.setattr(heads, "scored", lambda execution: {"m": next(scores)})
    monkeypatch.setattr(heads, "load", lambda execution: nn.init.constant_(head.weight, 9.0))
    heads.load_start(None)
    assert heads.state.inherited is stays and head.weight.item() == (before if stays else 9.0)
    assert heads.state.heads == {"trained": trained, "closed form": closed}
    ((name, data),) = told
    assert name == "notice" and data["routine"] is True


def test_a_run_of_its_own_computes_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, loaded = heads_of([], 0), []
    heads.setup.net.head = nn.Linear(1, 1)  # type: ignore[assignment]
    monkeypatch.setattr(heads, "load", loaded.append)
    heads.load_start("the first phase")  # type: ignore[arg-type]
    assert loaded == ["the first phase"] and not heads.state.heads
