"""Exactness: the plans under which a forward pass may be split or repeated.

Smaller forward passes run the images of a step in parts, most of them twice. Recomputed activations
run a part of the network twice. Both give the result of a single pass over all images only if no
layer uses what other images a pass has, or counts the passes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from siamkit.config import TrainConfig
from siamkit.engine.difference import relative_difference
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Phase
from siamkit.model.names import named_modules
from siamkit.spelling import setting
from siamkit.words import plural

TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 1e-2}
"""Largest relative difference between two passes over the same images, by precision. GPUs do not
add up in a fixed order."""

_BACKBONE = "backbone."


class NotExactError(ConfigError):
    """Forward passes over parts of a batch would give another result than a pass over all of it."""


def not_exact(why: str, when: str = "") -> NotExactError:
    """Return the error about a reason, with what the user can do.

    Args:
        why: The reason.
        when: The time, such as `` in epoch 3``.
    """
    return NotExactError(
        f"exact accumulation is not possible{when}: {why}",
        where="train.micro_batch",
        hint=f"keep norm layers in eval mode ({setting('freeze.norm', 'affine')}), choose a head "
        "or a backbone without them, run the whole batch at once "
        f"(without {setting('train.micro_batch')}), or accept a loss for each micro-batch "
        f"({setting('train.accumulation', 'naive')})",
    )


def require_exact(
    train: TrainConfig, controller: FreezeController, phases: Sequence[Phase]
) -> None:
    """Refuse phases in which the configured way to save memory would change the result.

    Raises:
        ConfigError: A norm layer forbids smaller forward passes, or recomputed activations.
    """
    for phase in phases:
        when = f" in epoch {phase.start_epoch + 1}"
        if cuts_batches(train) and (why := obstacle(controller, phase.plan)):
            raise not_exact(why, when)
        if train.grad_checkpointing and (why := obstacle_to_recomputing(controller, phase.plan)):
            raise ConfigError(
                f"activations cannot be recomputed{when}: {why}",
                where="train.grad_checkpointing",
                hint="set it to false, or freeze.norm to affine",
            )


def cuts_batches(train: TrainConfig) -> bool:
    """Return whether the settings split a batch that a loss compares into several passes."""
    return train.accumulation == "exact" and train.pass_size < train.batch_size


def obstacle(controller: FreezeController, plan: FreezePlan) -> str | None:
    """Return why a plan allows no smaller forward passes; None if its norm layers allow them."""
    training = controller.training_modules(plan)
    names = [
        name
        for name, module in named_modules(controller.net)
        if _counts(name, module, training) or _compares(module)
    ]
    return _listed(names, "would use the statistics of a micro-batch")


def obstacle_to_recomputing(controller: FreezeController, plan: FreezePlan) -> str | None:
    """Return why a plan allows no recomputed activations of the backbone; None if it does."""
    training = controller.training_modules(plan)
    names = [
        name
        for name, module in named_modules(controller.net)
        if name.startswith(_BACKBONE) and _counts(name, module, training)
    ]
    return _listed(names, "would count each image twice in the statistics")


def require_repeated(before: Tensor, again: Tensor, precision: str) -> None:
    """Check that a repeated forward pass gave the same embeddings.

    Args:
        before: The embeddings ``[N, E]`` that the loss compared.
        again: The embeddings of the same images in the repeated pass.
        precision: The numeric type of the passes.

    Raises:
        NotExactError: They differ.
    """
    apart = relative_difference(again, before, equal_nan=True)
    if apart > TOLERANCE[precision]:
        raise not_exact(not_repeated(apart))


def not_repeated(apart: float) -> str:
    """Return the reason of a network that gives other embeddings for the same images.

    Args:
        apart: The relative difference of the embeddings.
    """
    return (
        f"the network gives other embeddings when a forward pass is repeated (by {apart:.1e} of "
        "the largest value), so it keeps a state, or draws random numbers from a generator of its "
        "own"
    )


def _counts(name: str, module: nn.Module, training: Collection[str]) -> bool:
    """Return whether a module is a norm layer that counts each pass in its statistics."""
    norm = isinstance(module, nn.modules.batchnorm._NormBase)
    return norm and name in training and module.running_mean is not None


def _compares(module: nn.Module) -> bool:
    """Return whether a module is a norm layer that always uses the statistics of a pass."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def _listed(names: Sequence[str], does: str) -> str | None:
    if not names:
        return None
    others = f" and {plural(len(names) - 1, 'other')}" if len(names) > 1 else ""
    return f"the norm layer {names[0]}{others} {does}"
