"""Fitting: chooses the size of forward passes by the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from siamkit.engine.phase import Execution
from siamkit.errors import NoMemoryError
from siamkit.freezing.allocations import Bytes
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.free_memory import free_bytes, release_unused
from siamkit.training.step_memory import forward_of, predictor

_SHARE = 0.8
"""The share of the free memory to use. Batches, caches and other processes need some too."""


@dataclass(frozen=True)
class Fit:
    """A choice of the size of forward passes.

    Attributes:
        images: The number of images in a forward pass.
        needed: The memory that a step with passes of this size needs, in bytes, without the weights
            and the optimizer's state that are present already.
        whole: The same for a step with one pass.
        free: The free memory at the time of the choice, in bytes.
    """

    images: int
    needed: int
    whole: int
    free: int


def fitting_pass(setup: Setup, execution: Execution | None = None) -> Fit | None:
    """Return the largest forward pass that fits; None if the memory of a step is not predictable.

    Args:
        setup: The parts of the run, with the phase's plan applied.
        execution: The execution of the phase; None for the whole network.
    """
    predict = predictor(setup, forward_of(setup, execution) if execution else None)
    if predict(setup.config.train.batch_size) is None:
        return None
    tensors = *setup.net.parameters(), *setup.net.buffers(), *setup.loss.parameters()
    state = (v for values in setup.optimizer.state.values() for v in values.values())
    present = Bytes.of(*tensors, *(v for v in state if isinstance(v, Tensor))).total

    def need(images: int) -> int:
        memory = predict(images)
        assert memory is not None
        return max(memory.peak - present, 0)

    return choose(setup.config.train.batch_size, need, free_bytes(setup.device))


def halved_pass(setup: Setup, obstacle: str | None, largest: int, where: str) -> int:
    """Return the size of forward passes after the memory ran out.

    Args:
        setup: The parts of the run.
        obstacle: Why smaller passes would change the result; None if they would not.
        largest: The most images in a forward pass so far.
        where: The place in the run, for errors.

    Raises:
        ResourceError: The passes cannot be smaller.
    """
    hint = (
        f"use smaller images ({setting('data.image_size')}) or batches "
        f"({setting('train.batch_size')}), freeze more, or recompute activations "
        f"({setting('train.grad_checkpointing', True)})"
    )
    if largest == 1:
        raise NoMemoryError(f"out of memory {where}, with one image per forward pass", hint=hint)
    if obstacle is not None:
        raise NoMemoryError(
            f"out of memory {where}, with {largest} images per forward pass; smaller passes would "
            f"change the result: {obstacle}",
            hint=f"keep norm layers in eval mode ({setting('freeze.norm', 'affine')}), choose a "
            f"head or a backbone without them, or {hint}",
        )
    return -(-largest // 2)


def free_memory(setup: Setup) -> None:
    """Free the gradients of a step that failed, and what torch keeps for later use."""
    setup.optimizer.zero_grad(set_to_none=True)
    release_unused(setup.device)


def choose(batch: int, need: Callable[[int], int], free: int) -> Fit:
    """Return the largest pass whose predicted peak fits into a share of the free memory.

    A batch is cut into passes of about equal size, so their number decides.

    Args:
        batch: The number of images in a batch.
        need: Returns the memory of a step by the most images in a pass. From two passes on, it
            grows about linearly with them.
        free: The free memory, in bytes.
    """
    allowed = int(_SHARE * free)
    whole = need(batch)
    if whole <= allowed or batch == 1:
        return Fit(batch, whole, whole, free)
    half, few = -(-batch // 2), max(batch // 8, 1)
    each = max(need(half) - need(few), 0) / max(half - few, 1)
    room = allowed - need(few)
    limit = min(half, int(few + room / each)) if each else half
    while True:
        images = _even(batch, max(limit, 1))
        needed = need(images)
        if needed <= allowed or images == 1:
            return Fit(images, needed, whole, free)
        limit = images * 9 // 10


def _even(batch: int, limit: int) -> int:
    """Return the size of the largest of the fewest even parts with at most ``limit`` images."""
    return -(-batch // -(-batch // limit))
