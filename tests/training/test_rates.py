"""The learning rates of a step: what the scheduler knows and may return, and what is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from siamkit.config import OptimizerConfig
from siamkit.errors import PluginError
from siamkit.interfaces import FreezePlan, Progress
from siamkit.training.rates import Rates
from siamkit.training.state import RunState


def rates_of(scale: float, **state: Any) -> tuple[Rates, torch.optim.Optimizer, list[Progress]]:
    """The rates of a run of two epochs of five steps, in which the stem is frozen."""
    seen: list[Progress] = []
    head, stem = (nn.Parameter(torch.ones(1), requires_grad=on) for on in (True, False))
    optimizer = torch.optim.SGD(
        [{"params": [head], "stage": "head"}, {"params": [stem], "stage": "stem"}], lr=9.0
    )

    def lr_scale(progress: Progress) -> float:
        seen.append(progress)
        return scale

    setup: Any = SimpleNamespace(
        config=SimpleNamespace(
            optimizer=OptimizerConfig(lr=0.1), scheduler=SimpleNamespace(name="mine"),
            train=SimpleNamespace(unfreeze_warmup=0),
        ),
        controller=SimpleNamespace(plan=FreezePlan(frozenset({"head"}), lr_mult={"head": 3.0})),
        scheduler=SimpleNamespace(lr_scale=lr_scale),
        schedule=SimpleNamespace(epochs=2, monitor="recall@1"), optimizer=optimizer,
    )  # fmt: skip
    return Rates(setup, RunState(**state), 5), optimizer, seen


@pytest.mark.parametrize("scale", [-0.01, float("inf"), float("nan")])
def test_a_multiplier_that_is_negative_or_not_finite_is_refused(scale: float) -> None:
    rates, _, _ = rates_of(scale)
    with pytest.raises(PluginError, match="scheduler 'mine': lr_scale must be finite and >= 0"):
        rates.set({})


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_rate_that_is_told_is_the_highest_of_what_trains(scale: float) -> None:
    rates, optimizer, _ = rates_of(scale)
    rates.set({})
    optimizer.param_groups[1]["lr"] = 7.0
    expected = pytest.approx(0.1 * 3 * scale)
    assert rates.current() == {"lr": expected, "rates": {"head": expected}}


def test_the_scheduler_knows_how_far_the_run_is() -> None:
    history = [{"recall@1": 0.5}]
    rates, _, seen = rates_of(1.0, epoch=1, step=7, history=history)
    rates.set({})
    assert seen == [Progress(1, 2, 7, 10, tuple(history), "recall@1")]
