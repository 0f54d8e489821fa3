"""The importance of channels, from the training images and the loss of the run.

The importance of a channel is the squared change of the loss, to the first order, if every layer
that reads the channel ignored it, summed over batches (Molchanov et al. 2019,
https://arxiv.org/abs/1906.10771). If the loss has no gradient, because no pair or triplet violates
a margin any more, it is the channel's share in the outputs of these layers instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from siamkit.compress.dependencies import Dependencies
from siamkit.compress.groups import Group
from siamkit.compress.layers import by_input, weight_of

Kind = Literal["taylor", "activation"]

Scores = Mapping[str, list[float]]
"""The importance of each channel of each group."""


def taylor(dependencies: Dependencies, losses: Iterable[Tensor]) -> Scores:
    """Return the importance of each channel by the gradient of the loss.

    Args:
        dependencies: The pruning groups.
        losses: The loss of each batch, computed with ``dependencies.backbone``.
    """
    backbone, groups = dependencies.backbone, dependencies.groups
    weights = {name: weight_of(backbone.get_submodule(name)) for name in readers(groups)}
    scores = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups}
    for value in losses:
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        change = {
            name: _changes(backbone.get_submodule(name), gradient)
            for name, gradient in zip(weights, gradients, strict=True)
        }
        for group in groups:
            scores[group.name] += _summed(group, change).square()
    return {name: values.tolist() for name, values in scores.items()}


def _changes(layer: nn.Module, gradient: Tensor | None) -> Tensor:
    """Return the first-order change of the loss for each channel ``[C]`` that a layer reads."""
    weight = by_input(layer)
    if gradient is None:
        return torch.zeros(len(weight), dtype=torch.float64)
    return (weight.detach() * by_input(layer, gradient)).flatten(1).cpu().double().sum(1)


def activation(dependencies: Dependencies, found: Mapping[str, Tensor]) -> Scores:
    """Return the importance of each channel by the outputs of the layers that read it.

    Args:
        dependencies: The pruning groups.
        found: The second moments ``[C, C]`` of the channels that each of these layers reads.
    """
    shares = {}
    for name in readers(dependencies.groups):
        weight = by_input(dependencies.backbone.get_submodule(name)).detach()
        squares = weight.flatten(1).cpu().double().square().sum(1)
        energy = found[name].diagonal() * squares  # of the output, from each channel
        shares[name] = energy / energy.sum().clamp_min(1e-30)
    return {group.name: _summed(group, shares).tolist() for group in dependencies.groups}


def readers(groups: Iterable[Group]) -> tuple[str, ...]:
    """Return the names of the layers that read the channels of groups."""
    members = (member for group in groups for member in group.members)
    return tuple(dict.fromkeys(m.layer for m in members if m.side == "reads"))


def _summed(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    """Return the sum, per channel of a group, of values per channel of the layers that read it."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in group.members:
        if member.side == "reads":
            places, channels = torch.tensor(member.places), torch.tensor(member.channels)
            total.index_add_(0, channels, values[member.layer][places])
    return total
