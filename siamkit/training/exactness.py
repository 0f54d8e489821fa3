"""Exact accumulation: the conditions under which several forward passes equal a single one.

A pass over a part of a batch must give each image the embedding that a pass over the whole batch
gives it, and a repeated pass must give the same embeddings again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import Phase
from siamkit.model.generators import generators_restored, seed_generators
from siamkit.model.names import named_modules
from siamkit.model.undisturbed import Snapshot
from siamkit.spelling import setting

_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 1e-2}
"""Largest relative difference between two passes over the same images, by precision. GPUs do not
add up in a fixed order."""


def ways_out() -> str:
    """Return what a user can do whose network does not allow exact accumulation, for messages."""
    return (
        f"keep norm layers in eval mode ({setting('freeze.norm', 'affine')}), choose a head or a "
        "backbone without them, run the whole batch at once "
        f"(without {setting('train.micro_batch')}), or accept a loss for each micro-batch "
        f"({setting('train.accumulation', 'naive')})"
    )


def batch_statistics(net: nn.Module, training: Collection[str]) -> list[str]:
    """Return the names of the norm layers whose output for an image depends on its batch.

    Args:
        net: The network.
        training: The names of the modules in training mode.
    """
    return [
        name
        for name, module in named_modules(net)
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (name in training or module.running_mean is None)
    ]


def require_no_batch_statistics(controller: FreezeController, phases: Sequence[Phase]) -> None:
    """Refuse phases in which a forward pass over a part of a batch would give other embeddings.

    Raises:
        ConfigError: A norm layer uses the statistics of a pass.
    """
    for phase in phases:
        if error := obstacle(controller, phase):
            raise error


def obstacle(controller: FreezeController, phase: Phase) -> ConfigError | None:
    """Return why a phase allows no smaller forward passes; None if it does."""
    names = batch_statistics(controller.net, controller.training_modules(phase.plan))
    if not names:
        return None
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return _not_exact(
        f"the norm layer {names[0]}{others} would use the statistics of a micro-batch",
        f" in epoch {phase.start_epoch + 1}",
    )


def require_repeated(before: Tensor, again: Tensor, precision: str) -> None:
    """Check that a repeated forward pass gave the same embeddings.

    Args:
        before: The embeddings ``[N, E]`` that the loss compared.
        again: The embeddings of the same images in the repeated pass.
        precision: The numeric type of the passes.

    Raises:
        ConfigError: They differ.
    """
    apart = relative_difference(again, before, equal_nan=True)
    if apart > _TOLERANCE[precision]:
        raise _not_exact(
            f"the network gives other embeddings when a forward pass is repeated (by {apart:.1e} "
            "of the largest value), so it keeps a state, or draws random numbers from a generator "
            "of its own"
        )


def require_independent(
    net: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor, precision: str
) -> None:
    """Check on a real batch that the embedding of an image does not depend on its batch.

    Half of the images pass once with the others, and once with copies of one image instead of the
    others. Both passes have the same size and draw the same random numbers, such as for dropout.

    Args:
        net: The network, in the mode of the training.
        forward: Maps inputs to embeddings.
        inputs: The inputs of a forward pass.
        precision: The numeric type of the pass.

    Raises:
        ConfigError: It does, or the forward pass changes a buffer.
    """
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    before = Snapshot(net.modules())

    def outputs(images: Tensor) -> Tensor:
        seed_generators(0)
        return forward(images)

    try:
        with generators_restored(), torch.no_grad():
            whole = outputs(inputs)
            for name, buffer in net.named_buffers():
                if name not in kept or not _equal(buffer, kept[name]):
                    raise _not_exact(
                        f"a forward pass changes the buffer {name}, and exact accumulation runs it "
                        "twice"
                    )
            half = len(inputs) // 2
            others = torch.cat([inputs[:half], inputs[:1].expand_as(inputs[half:])])
            apart = relative_difference(outputs(others)[:half], whole[:half], equal_nan=True)
            if apart > _TOLERANCE[precision]:
                require_repeated(whole, outputs(inputs), precision)
                raise _not_exact(
                    "the embedding of an image depends on the other images of its forward pass (by "
                    f"{apart:.1e} of the largest value)"
                )
    finally:
        before.restore()


def _not_exact(why: str, when: str = "") -> ConfigError:
    return ConfigError(
        f"exact accumulation is not possible{when}: {why}",
        where="train.micro_batch",
        hint=ways_out(),
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, where NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
