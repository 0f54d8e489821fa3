"""Reconstruction: the layers that lost input channels take over what the lost channels told them.

The channels of a network are related, so a lost channel is largely a combination of those that are
left. For each layer that reads the channels, least squares on training images find this
combination, and the layer's weights absorb it: its output stays as close to before as it can
(He et al. 2017, https://arxiv.org/abs/1707.06168). This needs no labels and no gradient, so it
helps in the frozen part too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from siamkit.compress.layers import input_axis, is_dense, weight_of
from siamkit.model.pruning import Cut, Pruning, selected
from siamkit.model.trace import evaluating

_POSITIONS = 2048
"""At most this many positions of each batch's feature map count, drawn evenly."""

_RIDGE = 1e-3
"""The ridge, as a share of the mean variance of the channels that are left."""


def reading(backbone: nn.Module, record: Pruning) -> dict[str, Cut]:
    """Return what is left of the channels that each dense layer reads, if it lost some.

    Args:
        backbone: The full backbone.
        record: The record of the pruning, relative to ``backbone``.
    """
    cuts = {}
    for name, pruned in record.layers.items():
        layer, axes = backbone.get_submodule(name), pruned.tensors.get("weight")
        if axes and is_dense(layer) and (cut := axes[input_axis(layer)]) is not None:
            cuts[name] = cut
    return cuts


def moments(
    backbone: nn.Module, layers: Iterable[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return the second moments ``[C, C]`` of the channels that each layer reads.

    Args:
        backbone: The full backbone; it is unchanged afterwards.
        layers: The names of the layers.
        batches: Batches of images ``[N, C, H, W]``.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach()
            axis = -1 if isinstance(layer, nn.Linear) else 1
            rows = values.movedim(axis, -1).flatten(0, -2)  # [positions, C]
            rows = rows[:: max(1, len(rows) // _POSITIONS)].cpu().double()
            found[name] = found.get(name, 0) + rows.T @ rows

        hooks.append(layer.register_forward_pre_hook(add))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name in layers:
        watch(name, backbone.get_submodule(name))
    try:
        with evaluating(backbone), torch.no_grad():
            for images in batches:
                backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def absorb(
    pruned: nn.Module, full: nn.Module, record: Pruning, found: Mapping[str, Tensor]
) -> None:
    """Let the layers of a pruned backbone absorb the channels that they lost, in place.

    Args:
        pruned: The pruned backbone.
        full: The backbone before.
        record: The record of the pruning, relative to ``full``.
        found: The second moments of the channels that each layer reads in ``full``.
    """
    for name, cut in reading(full, record).items():
        layer, before = pruned.get_submodule(name), full.get_submodule(name)
        axis = input_axis(layer)
        axes = list(record.layers[name].tensors["weight"])
        axes[axis] = Cut(cut.of, _lost(cut))
        weight = weight_of(layer)
        # On the CPU, because some devices have no float64.
        lost = selected(weight_of(before).detach().cpu(), axes).double().movedim(axis, -1)
        share = combination(found[name], cut)  # [lost, kept]
        with torch.no_grad():
            weight += (lost @ share).movedim(-1, axis).to(weight)


def combination(moments: Tensor, cut: Cut) -> Tensor:
    """Return the least-squares weights ``[lost, kept]`` of the channels that are left.

    Args:
        moments: The second moments ``[C, C]`` of all channels.
        cut: The channels that are left.
    """
    kept, lost = list(cut.kept), list(_lost(cut))
    among = moments[kept][:, kept]
    ridge = _RIDGE * among.diagonal().mean().clamp_min(1e-30)
    regular = among + ridge * torch.eye(len(kept), dtype=among.dtype)
    solved: Tensor = torch.linalg.solve(regular, moments[kept][:, lost])
    return solved.T


def _lost(cut: Cut) -> tuple[int, ...]:
    kept = frozenset(cut.kept)
    return tuple(place for place in range(cut.of) if place not in kept)
