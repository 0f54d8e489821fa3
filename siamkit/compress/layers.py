"""The layers that can lose channels: the axes of their tensors, and what is left of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, TypeGuard

from torch import Tensor, nn

from siamkit.model.pruning import Cut, PrunedLayer

Side = Literal["writes", "reads", "through"]
"""A layer's channels that it ``writes`` or ``reads``, or both as one if they pass ``through``."""

Dense = nn.modules.conv._ConvNd | nn.Linear
"""A layer that mixes channels. Depthwise convolutions are of these types, but mix none."""

Norm = nn.modules.batchnorm._NormBase | nn.PReLU
"""A layer that works on each channel by itself."""


def is_dense(layer: nn.Module) -> TypeGuard[Dense]:
    """Return whether each channel that a layer writes is computed from all that it reads."""
    return isinstance(layer, Dense) and getattr(layer, "groups", 1) == 1


def can_shrink(layer: nn.Module) -> bool:
    """Return whether a layer works with any part of its channels, and its tensors are known."""
    names = {name for name, _ in tensors_of(layer)}
    if isinstance(layer, Dense):
        depthwise = not is_dense(layer) and width(layer, "reads") == layer.groups
        known = "weight" in names and names <= {"weight", "bias"}
        return known and (is_dense(layer) or (depthwise and width(layer, "writes") == layer.groups))
    return isinstance(layer, Norm)


def tensors_of(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a layer itself, with their names."""
    yield from layer.named_parameters(recurse=False)
    yield from layer.named_buffers(recurse=False)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weights of a dense layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def input_axis(layer: nn.Module) -> int:
    """Return the axis of a dense layer's weights that belongs to the channels it reads."""
    return 0 if getattr(layer, "transposed", False) else 1


def by_input(layer: nn.Module, values: Tensor | None = None) -> Tensor:
    """Return a view ``[C, ...]`` of a dense layer's weights, by the C channels it reads.

    Args:
        layer: The layer.
        values: Values of the shape of the weights, such as their gradient, instead of them.
    """
    return (weight_of(layer) if values is None else values).movedim(input_axis(layer), 0)


def width(layer: nn.Module, side: Side) -> int:
    """Return the number of channels that a layer has on a side."""
    sizes = _sizes(layer, side)
    assert sizes
    return next(iter(sizes.values()))


def shrunk(layer: nn.Module, lost: Mapping[Side, Collection[int]]) -> PrunedLayer:
    """Return what is left of a layer that :func:`can_shrink`, if it loses some channels.

    Args:
        layer: The layer.
        lost: The channels to remove on each side.
    """
    cuts = {side: _kept(width(layer, side), gone) for side, gone in lost.items() if gone}
    sizes = {key: len(cut.kept) for side, cut in cuts.items() for key in _sizes(layer, side)}
    tensors = {}
    for name, tensor in tensors_of(layer):
        axes: list[Cut | None] = [None] * tensor.ndim
        for axis, side in enumerate(_axes(layer, name, tensor)):
            axes[axis] = cuts.get(side)
        if any(axes):
            tensors[name] = tuple(axes)
    return PrunedLayer(sizes, tensors)


def _axes(layer: nn.Module, name: str, tensor: Tensor) -> tuple[Side, ...]:
    """Return the sides that the first axes of a layer's tensor belong to."""
    if not is_dense(layer):
        return ("through",) if tensor.ndim else ()
    if name == "bias":
        return ("writes",)
    return ("reads", "writes") if input_axis(layer) == 0 else ("writes", "reads")


def _sizes(layer: nn.Module, side: Side) -> dict[str, int]:
    """Return the attributes of a layer that state the number of channels on a side."""
    names = {
        "reads": ("in_features", "in_channels"),
        "writes": ("out_features", "out_channels"),
        "through": ("num_features", "num_parameters", "in_channels", "out_channels", "groups"),
    }[side]
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def _kept(of: int, lost: Collection[int]) -> Cut:
    gone = frozenset(lost)
    return Cut(of, tuple(place for place in range(of) if place not in gone))
