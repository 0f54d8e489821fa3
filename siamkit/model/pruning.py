"""The record of a pruned backbone: which channels of each layer are left of the full network.

The record is applied to a freshly built backbone, which then has the pruned network's layers. It is
plain JSON, so a pruned network is built again without the library that pruned it, and without
running code from a file. Each list of channels is stored once, as text such as ``0-3,7``, because
all layers of a pruning group keep the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import CheckpointError
from siamkit.json_files import digest_of, read_sealed, write_sealed

FORMAT = 1

Channels = tuple[int, ...]
"""Channels of the full network's layer, in order."""


@dataclass(frozen=True)
class Cut:
    """The channels that pruning left on one axis of a tensor.

    Attributes:
        of: The size of the axis in the full network.
        kept: The indices on the axis that are left, in increasing order.
    """

    of: int
    kept: Channels


@dataclass(frozen=True)
class PrunedLayer:
    """The channels of a layer that pruning kept.

    Attributes:
        sizes: The new values of the layer's attributes that state its size, such as
            ``out_channels``, by the attribute's name.
        tensors: For each parameter and buffer of the layer that lost channels, by name: the
            channels that are left on each axis; None for an axis that is whole.
    """

    sizes: Mapping[str, int | tuple[int, ...]]
    tensors: Mapping[str, tuple[Cut | None, ...]]


@dataclass(frozen=True)
class Pruning:
    """The record of a pruned backbone.

    Attributes:
        layers: What is left of each layer that lost channels, by the layer's name in the backbone.
        about: How the network was pruned, as JSON values.
    """

    layers: Mapping[str, PrunedLayer]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 of the record's JSON values."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        numbers: dict[Cut, int] = {}
        layers = {
            name: {
                "sizes": dict(layer.sizes),
                "tensors": {
                    tensor: [None if c is None else numbers.setdefault(c, len(numbers)) for c in cs]
                    for tensor, cs in layer.tensors.items()
                },
            }
            for name, layer in self.layers.items()
        }
        channels = [{"of": cut.of, "kept": as_ranges(cut.kept)} for cut in numbers]
        return {"format": FORMAT, "about": dict(self.about), "channels": channels, "layers": layers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Pruning:
        """Return the record that JSON values describe.

        Args:
            values: The values that :meth:`to_json` returned.
            where: The file, for errors.

        Raises:
            CheckpointError: The values are no record, or one of another format.
        """
        if values.get("format") != FORMAT:
            raise CheckpointError(
                "unknown format of a pruning record", where=where, got=values.get("format"),
                allowed=str(FORMAT),
            )  # fmt: skip
        try:
            cuts = [_cut(item["of"], item["kept"]) for item in values["channels"]]
            layers = {
                str(name): PrunedLayer(
                    {str(key): _size(value) for key, value in layer["sizes"].items()},
                    {
                        str(tensor): tuple(None if c is None else cuts[c] for c in axes)
                        for tensor, axes in layer["tensors"].items()
                    },
                )
                for name, layer in values["layers"].items()
            }
            return cls(layers, dict(values["about"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise CheckpointError("holds no pruning record", where=where) from None

    def save(self, path: Path) -> None:
        """Write the record, sealed by its hash.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        write_sealed(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Pruning:
        """Return the record in a file.

        Raises:
            CheckpointError: The file is missing, damaged or edited, or holds no record.
        """
        hint = "restore the file pruning.json of the pruned run"
        return cls.from_json(read_sealed(path, hint), str(path))

    def after(self, first: Pruning) -> Pruning:
        """Return the record of a network that was pruned twice, relative to the full network.

        Args:
            first: The record of the first pruning. This record is relative to the network that
                ``first`` describes.
        """
        layers = dict(first.layers)
        for name, layer in self.layers.items():
            before = layers.get(name)
            if before is None:
                layers[name] = layer
                continue
            tensors = dict(before.tensors)
            for tensor, cuts in layer.tensors.items():
                old = tensors.get(tensor, (None,) * len(cuts))
                tensors[tensor] = tuple(map(_composed, old, cuts))
            layers[name] = PrunedLayer({**before.sizes, **layer.sizes}, tensors)
        return Pruning(layers, self.about)

    def apply(self, backbone: nn.Module, where: str) -> None:
        """Remove the pruned channels from a backbone, in place.

        Args:
            backbone: The full network, with any weights.
            where: The source of the record, for errors.

        Raises:
            CheckpointError: The record belongs to another network.
        """
        modules = dict(backbone.named_modules())
        try:
            for name, layer in self.layers.items():
                _shrink(modules[name], layer)
        except (KeyError, AttributeError, ValueError):
            raise CheckpointError(
                "the pruning record belongs to another network",
                where=where,
                got=f"a backbone without a layer {name!r} of the recorded size",
                hint="build the backbone by the name and options that the pruned run has",
            ) from None

    def is_applied(self, backbone: nn.Module) -> bool:
        """Return whether the pruned channels have already been removed from a backbone."""
        modules = dict(backbone.named_modules())
        return all(
            _has(getattr(modules.get(name), tensor, None), cuts)
            for name, layer in self.layers.items()
            for tensor, cuts in layer.tensors.items()
        )


def _has(tensor: object, cuts: Sequence[Cut | None]) -> bool:
    """Return whether a tensor already has the size that the record leaves it."""
    if not isinstance(tensor, Tensor) or tensor.ndim != len(cuts):
        return False
    return all(c is None or len(c.kept) == n for c, n in zip(cuts, tensor.shape, strict=True))


def _shrink(module: nn.Module, layer: PrunedLayer) -> None:
    for name, cuts in layer.tensors.items():
        tensor = getattr(module, name)
        if not isinstance(tensor, Tensor):
            raise ValueError
        smaller = selected(tensor.detach(), cuts)
        if name in module._parameters:
            setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, smaller)
    for name, size in layer.sizes.items():
        if not isinstance(getattr(module, name), int | tuple):
            raise ValueError
        setattr(module, name, size)


def selected(tensor: Tensor, cuts: Sequence[Cut | None]) -> Tensor:
    """Return a copy of a tensor with only the channels that pruning kept.

    Raises:
        ValueError: The tensor does not have the recorded size.
    """
    if tensor.ndim != len(cuts):
        raise ValueError
    for axis, cut in enumerate(cuts):
        if cut is not None:
            if tensor.shape[axis] != cut.of:
                raise ValueError
            index = torch.tensor(cut.kept, device=tensor.device)
            tensor = tensor.index_select(axis, index)
    return tensor.clone()


def _composed(first: Cut | None, second: Cut | None) -> Cut | None:
    if first is None or second is None:
        return first or second
    return Cut(first.of, tuple(first.kept[place] for place in second.kept))


def _size(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, list):
        return tuple(map(_whole, value))
    return _whole(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError
    return value


def _cut(of: Any, text: Any) -> Cut:
    kept = of_ranges(text)
    ordered = all(a < b for a, b in pairwise(kept))
    if not (kept and ordered and kept[0] >= 0 and kept[-1] < _whole(of)):
        raise ValueError
    return Cut(of, kept)


def as_ranges(numbers: Iterable[int]) -> str:
    """Return increasing numbers as text, such as ``0-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def of_ranges(text: str) -> Channels:
    """Return the numbers that a text such as ``0-3,7`` stands for.

    Raises:
        ValueError: The text is of another form, or holds a range of more than 2^20 numbers.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        a, b = int(first), int(last or first)
        if b - a > 1 << 20:
            raise ValueError
        numbers += range(a, b + 1)
    return tuple(numbers)
