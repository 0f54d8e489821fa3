"""The part that gives values that are not finite, although the run has not trained it.

A high learning rate makes weights explode, but only those that train. NaN from a frozen stage, or
before the first step, has another cause: the weights, the images or the precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.interfaces import HEAD, Stage
from siamkit.model.device import laid_out_for
from siamkit.model.names import submodule
from siamkit.model.trace import evaluating
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.state import RunState
from siamkit.training.step import autocast


def untrained_cause(setup: Setup, state: RunState, batches: Iterable[Tensor]) -> str | None:
    """Return a hint that names the part that gives values that are not finite, and what to do.

    Args:
        setup: The parts of the run.
        state: The state of the run.
        batches: Images ``[N, C, H, W]``, in batches.

    Returns:
        The hint; None if the training may be the cause, or if all outputs are finite.
    """
    precision, trained = setup.config.train.precision, trained_so_far(setup, state)
    for images in batches:
        with evaluating(setup.net), torch.no_grad(), autocast(setup.device, precision):
            found = first_not_finite(
                setup.net, setup.schedule.stages, laid_out_for(setup.net, images)
            )
        if found is None:
            continue
        before = setup.schedule.stages[: setup.schedule.stages.index(found) + 1]
        if any(name in trained for stage in before for name in stage.parameters):
            return None
        return _hint(found.name, precision)
    return None


def trained_so_far(setup: Setup, state: RunState) -> frozenset[str]:
    """Return the names of the parameters that a step of the run may have changed."""
    epochs = state.epoch + (state.epoch_step > 0)
    plans = (setup.schedule.plan_at(epoch, state.history) for epoch in range(epochs))
    return frozenset(name for plan in plans for name in plan.trainable)


def first_not_finite(net: nn.Module, stages: Iterable[Stage], images: Tensor) -> Stage | None:
    """Return the stage that first gives values that are not finite; None if all are finite.

    Args:
        net: The network, in eval mode.
        stages: Its stages.
        images: The images ``[N, C, H, W]``.
    """
    found: list[Stage] = []

    def watch(stage: Stage) -> Any:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and any(not torch.isfinite(t).all() for t in _tensors(output)):
                found.append(stage)

        return look

    with ExitStack() as closing:
        for stage in stages:
            for name in stage.modules:
                handle = submodule(net, name).register_forward_hook(watch(stage))
                closing.callback(handle.remove)
        net(images)
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)


def _hint(stage: str, precision: str) -> str:
    what = "the head" if stage == HEAD else f"stage {stage!r}"
    advice = "check the weights and the images, or use another backbone"
    if precision != "fp32":
        advice = f"use fp32 ({setting('train.precision', 'fp32')}), or {advice}"
    return (
        f"{what} gives NaN or infinity, and the run has not trained it, so the learning rate is "
        f"not the cause: {advice}"
    )
