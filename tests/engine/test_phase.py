"""The decision of a phase, and the view of an epoch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit.engine.decision import PhaseDecision
from siamkit.engine.phase import CutPhase, Execution


def cut_phase(choice: Any = None, cache: Any = None, decode_spread: float = 0.1) -> CutPhase:
    boundary = SimpleNamespace(name="layer3", module="layer3.1", is_features=False)
    return CutPhase(
        SimpleNamespace(boundary=boundary), ("layer4: trains",),
        SimpleNamespace(spread=0.2), torch.float16, cache, 3,
        SimpleNamespace(rows=100, missing=60),
        SimpleNamespace(row_bytes=512, decode=0.01, prefix=0.02, suffix=0.03),
        SimpleNamespace(mode="cached", reason="it saves time", bytes=9, live=7.0, cached=5.0),
        choice, decode_spread,
    )  # fmt: skip


CHOICE = SimpleNamespace(
    kernel=SimpleNamespace(name="eager"), seconds_per_image={"eager": 0.1},
    setup_seconds={"eager": 1.0}, rejected={"inductor": "slow"},
)  # fmt: skip
DECISION = PhaseDecision(
    "cached", "it saves time", "layer3", "layer3.1", ("layer4: trains",), "eager", {"eager": 0.1},
    {"eager": 1.0}, {"inductor": "slow"}, 3, "float16", 100, 60, 512, 9, 0.01, 0.02, 0.03, 7.0,
    5.0, 0.2,
)  # fmt: skip


def test_a_decision_holds_the_numbers_of_the_phase() -> None:
    assert cut_phase(CHOICE).decision(None) == DECISION
    assert cut_phase(CHOICE, decode_spread=0.5).decision(None).spread == 0.5


def test_a_phase_that_computes_no_rows_has_no_kernel_of_its_own() -> None:
    found = cut_phase().decision(None)
    assert (found.kernel, found.kernels, found.setup_seconds, found.rejected) == (None, {}, {}, {})
    before = PhaseDecision("cached", "", kernel="folded")
    assert cut_phase().decision(before).kernel == "folded"
    assert cut_phase(CHOICE).decision(before).kernel == "eager"


def test_closing_a_phase_closes_its_cache() -> None:
    closed = []
    cut_phase(cache=SimpleNamespace(close=lambda: closed.append(1))).close()
    cut_phase().close()
    assert closed == [1]


@pytest.mark.parametrize(
    ("views", "epoch", "view"), [(None, 5, 5), (1, 5, 0), (3, 5, 2), (3, 2, 2), (3, 3, 0)]
)
def test_views_come_round(views: int | None, epoch: int, view: int) -> None:
    decision = PhaseDecision("live", "", views=views)
    assert Execution(decision, range(9), {}, torch.abs).view(epoch) == view


def test_sources_give_features_if_the_cut_is_behind_the_backbone() -> None:
    def execution(parts: CutPhase | None) -> Execution:
        return Execution(DECISION, range(9), {}, torch.abs, parts)

    assert not execution(None).gives_features
    part = cut_phase()
    assert not execution(part).gives_features
    part.cut.boundary.is_features = True
    assert execution(part).gives_features
