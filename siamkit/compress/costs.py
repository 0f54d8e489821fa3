"""The operations of a network's layers, and what removing channels saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamkit.compress.groups import Group
from siamkit.model.trace import evaluating


@dataclass(frozen=True)
class Costs:
    """The operations of a network's forward, per image.

    Attributes:
        total: All operations.
        layers: The operations of each convolution and linear layer.
        reads: The number of channels that each layer reads.
        writes: The number of channels that each layer writes.
    """

    total: float
    layers: Mapping[str, float]
    reads: Mapping[str, int]
    writes: Mapping[str, int]

    def after(self, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]) -> float:
        """Return the operations that are left if some channels are removed.

        Args:
            groups: The pruning groups.
            removed: The channels to remove, by the name of their group.
        """
        read, written = dict(self.reads), dict(self.writes)
        for group in groups:
            lost = frozenset(removed.get(group.name, ()))
            for member in group.members if lost else ():
                if member.layer in self.layers:
                    count = sum(channel in lost for channel in member.channels)
                    (read if member.side == "reads" else written)[member.layer] -= count
        return self.total - sum(
            flops * (1 - read[name] * written[name] / (self.reads[name] * self.writes[name]))
            for name, flops in self.layers.items()
        )


def costs_of(backbone: nn.Module, images: Tensor, total: float) -> Costs:
    """Return the operations of a backbone's layers.

    Args:
        backbone: The backbone; it is unchanged afterwards.
        images: A few images ``[N, C, H, W]``.
        total: The operations of the whole network per image, of which the layers are a part.
    """
    layers: dict[str, float] = {}
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}

    def watch(name: str, layer: nn.Conv2d | nn.Linear) -> None:
        linear = isinstance(layer, nn.Linear)
        reads[name] = layer.in_features if linear else layer.in_channels
        writes[name] = layer.out_features if linear else layer.out_channels
        each = 2 * layer.weight.numel() / writes[name]  # operations per output value

        def count(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
            layers[name] = layers.get(name, 0.0) + each * output.numel() / len(images)

        hooks.append(layer.register_forward_hook(count))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            watch(name, module)
    try:
        with evaluating(backbone), torch.no_grad():
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return Costs(total, layers, reads, writes)
