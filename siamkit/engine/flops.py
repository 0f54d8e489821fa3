"""FLOPs: the floating-point operations of a network, of its frozen prefix and of its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from siamkit.engine.cutting import Cut
from siamkit.engine.trial import sum_of
from siamkit.model.undisturbed import undisturbed


@dataclass(frozen=True)
class Flops:
    """Operations per image. A multiplication and an addition count as two.

    Attributes:
        forward: The whole network's forward.
        prefix: The share of ``forward`` in the frozen prefix; 0 if the network is not cut.
        backward: The backward of a training step.
    """

    forward: int
    prefix: int
    backward: int

    def to_json(self) -> dict[str, int]:
        """Return the fields."""
        return asdict(self)


def count_flops(net: nn.Module, cut: Cut | None, images: Tensor) -> Flops:
    """Return the floating-point operations of a training step, per image.

    They are counted by ``torch.utils.flop_counter``: only matrix products and convolutions count.

    Args:
        net: The network, with a plan applied; it is unchanged afterwards.
        cut: The cut network; None if the network runs whole.
        images: Two or more images ``[N, C, H, W]``.
    """
    with undisturbed(net):
        with _counter() as forward:
            output = net(images)
        with _counter() as backward:
            sum_of(output).backward()
    suffix = forward
    if cut is not None:
        with undisturbed(net):
            activations = cut.prefix(images)
            with _counter() as suffix:
                cut.suffix(activations)
    counts = (c.get_total_flops() // len(images) for c in (forward, suffix, backward))
    whole, after, back = counts
    return Flops(whole, whole - after, back)


def _counter() -> Any:
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _convolution_backward(grad: Any, images: Any, weight: Any, *rest: Any, out_shape: Any) -> int:
    """Count each of the two gradients like the forward.

    torch's own formula counts a grouped convolution's gradients as if it were dense.
    """
    del out_shape
    transposed, wanted = rest[-4], rest[-1]
    gradients: Sequence[bool] = wanted[:2]  # of the input, of the weight
    return conv_flop_count(images, weight, grad, transposed=transposed) * sum(gradients)
