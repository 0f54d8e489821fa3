"""Floating-point operations of a network's frozen prefix, and of what comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from siamkit.engine.cutting import Cut
from siamkit.engine.trial import sum_of
from siamkit.model.trace import rehearsing


@dataclass(frozen=True)
class Flops:
    """Operations per image; a multiplication and an addition are two.

    Attributes:
        forward: The whole network's forward.
        prefix: The part of it before the boundary; 0 where there is none.
        backward: The backward of a training step.
    """

    forward: int
    prefix: int
    backward: int

    def to_json(self) -> dict[str, int]:
        """Return the fields."""
        return asdict(self)


def count_flops(net: nn.Module, found: Cut | None, images: Tensor) -> Flops:
    """Count the matrix products and convolutions of a step, as ``torch.utils.flop_counter`` does.

    Args:
        net: The network, with a plan applied; it is unchanged afterwards.
        found: Where it is cut; None where it runs whole.
        images: ``[N, C, H, W]``, two or more.
    """
    with rehearsing(net):
        with _counter() as forward:
            output = net(images)
        with _counter() as backward:
            sum_of(output).backward()
    suffix = forward
    if found is not None:
        with rehearsing(net):
            activations = found.prefix(images)
            with _counter() as suffix:
                found.suffix(activations)
    counts = (c.get_total_flops() // len(images) for c in (forward, suffix, backward))
    whole, after, back = counts
    return Flops(whole, whole - after, back)


def _counter() -> Any:
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _convolution_backward(grad: Any, images: Any, weight: Any, *rest: Any, out_shape: Any) -> int:
    """Count each of both gradients as the forward: torch takes a grouped one for a dense one."""
    del out_shape
    transposed, wanted = rest[-4], rest[-1]
    gradients: Sequence[bool] = wanted[:2]  # of the input, of the weight
    return conv_flop_count(images, weight, grad, transposed=transposed) * sum(gradients)
