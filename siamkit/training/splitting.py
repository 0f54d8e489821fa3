"""The trial of smaller forward passes: compares a pass over a few images with passes over parts.

Norm layers of a known kind are judged by the plan alone (:mod:`siamkit.training.exactness`). The
trial finds everything else: code that compares the images of a pass, that depends on their number,
or that keeps a state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.engine.phase import Execution
from siamkit.engine.sources import TRAIN
from siamkit.model.generators import seed_generators
from siamkit.model.names import join, named_modules
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import Snapshot, undisturbed
from siamkit.training.build import Setup
from siamkit.training.exactness import TOLERANCE, not_repeated
from siamkit.training.step import embedded

_IMAGES = 8
"""The number of images in the largest pass of the trial."""

_OTHER_KERNEL = 1e-2
"""Largest relative difference between passes of two sizes on a GPU, which may use another kernel
for each, and TF32 in some of them."""


@dataclass(frozen=True)
class Splitting:
    """The outcome of a trial.

    Attributes:
        obstacle: Why smaller forward passes would change the result; None if they would not.
        draws: Whether the network draws random numbers, such as for dropout. Each pass draws its
            own, so a step of smaller passes draws others than a step of one pass.
    """

    obstacle: str | None
    draws: bool = False


def try_splitting(
    setup: Setup, execution: Execution, epoch: int, images: Sequence[int]
) -> Splitting:
    """Try on a few images of a batch whether forward passes may be smaller.

    Args:
        setup: The parts of the run. The plan of the phase is applied.
        execution: The execution of the phase, prepared for the epoch.
        epoch: The epoch.
        images: The images of a batch.
    """
    chosen = list(images)[:: max(len(images) // _IMAGES, 1)][:_IMAGES]  # of several classes
    (batch,) = execution.sources[TRAIN].batches([chosen], execution.view(epoch))
    device, precision = setup.device, setup.config.train.precision

    def forward(inputs: Tensor) -> Tensor:
        return embedded(execution.forward, inputs, device, precision, again=True)

    size = _OTHER_KERNEL if device.type == "cuda" else 0.0
    tolerance = TOLERANCE[precision]
    return compare(setup.net, forward, batch.inputs, tolerance, max(size, tolerance))


def compare(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    tolerance: float,
    of_sizes: float,
) -> Splitting:
    """Compare passes with other images, with fewer images, and with other random numbers.

    Args:
        net: The network. It is left as it was.
        forward: Maps inputs ``[N, ...]`` to embeddings ``[N, E]``, and does not change the inputs.
        inputs: The inputs of a pass over all images.
        tolerance: The largest relative difference between equal results.
        of_sizes: The same for passes of two sizes.
    """
    size = len(inputs)
    if size < 2:
        return Splitting(None)
    part = slice(size // 4, size // 4 + size // 2)

    def outputs(images: Tensor, seed: int = 0) -> Tensor:
        seed_generators(seed)
        return forward(images)

    def apart(a: Tensor, b: Tensor) -> float:
        return relative_difference(a, b, equal_nan=True)

    def among_others(kept: slice) -> float:
        # The images keep their places, so that dropout drops the same values of them.
        images = inputs[kept][:1].expand_as(inputs).clone()
        images[kept] = inputs[kept]
        return apart(outputs(images)[kept], first[kept])

    with undisturbed(net), torch.no_grad():
        first = outputs(inputs)
        before = Snapshot(net.modules())  # only now: a first pass may fill a cache
        repeated = apart(outputs(inputs), first)
        draws = apart(outputs(inputs, seed=1), first) > 10 * repeated
        other = max(among_others(slice(0, None, 2)), among_others(slice(1, None, 2)))
        fewer = apart(outputs(inputs[part]), first[part])
        changed = next(before.changed(), None)
        if draws:  # a pass of another size draws other numbers
            with evaluating(net):
                first = outputs(inputs)
                still = apart(outputs(inputs, seed=1), first) > 10 * repeated
                fewer = 0.0 if still else apart(outputs(inputs[part]), first[part])
    if changed is not None:
        why = f"a forward pass changes {_name(net, *changed)}, and most passes run twice"
    elif repeated > tolerance:
        why = not_repeated(repeated)
    elif other > tolerance:
        why = (
            "the embedding of an image depends on the other images of its forward pass (by "
            f"{other:.1e} of the largest value)"
        )
    elif fewer > of_sizes:
        why = (
            "the embedding of an image depends on the number of images in its forward pass (by "
            f"{fewer:.1e} of the largest value)"
        )
    else:
        return Splitting(None, draws)
    return Splitting(why, draws)


def _name(net: nn.Module, module: nn.Module, name: str) -> str:
    kind = "buffer" if name in module._buffers else "attribute"
    where = next(where for where, found in named_modules(net) if found is module)
    return f"the {kind} {join(where, name)}"
