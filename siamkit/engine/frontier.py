"""The frontier: the tensors that cross a boundary, and templates of all outputs before it.

At most boundaries, one tensor crosses. Several cross if branches, skip connections or tuples bypass
the last frozen module. :mod:`siamkit.engine.find_frontier` finds these tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from siamkit.engine.calls import Call
from siamkit.engine.outputs import (
    Leaf,
    Shape,
)


@dataclass(frozen=True)
class Port:
    """A tensor that crosses the boundary.

    Attributes:
        call: The module call that returns the tensor; None for the images themselves.
        leaf: The tensor's position among the values in the call's output.
        shape: The tensor's shape.
        dtype: The tensor's type.
        written: Whether later operations change the tensor in place.
        layout: The tensor's memory layout. It matters: dropout draws values in memory order.
    """

    call: Call | None
    leaf: int
    shape: Shape
    dtype: torch.dtype
    written: bool
    layout: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Frontier:
    """The tensors that cross a boundary, and templates of all module outputs before it.

    From a template, the suffix rebuilds a module's output without running the module.

    Attributes:
        ports: The tensors that activations hold, in execution order.
        outputs: The template of the output of each call before the boundary.
        image: The template of the network's input.
        buffers: Names of the buffers that the ports depend on.
        image_written: Whether code before the boundary changes the images in place.
    """

    ports: tuple[Port, ...]
    outputs: Mapping[Call, tuple[TreeSpec, tuple[Leaf, ...]]]
    image: Leaf
    buffers: frozenset[str]
    image_written: bool

    @property
    def is_plain(self) -> bool:
        """Whether exactly one tensor crosses the boundary, with one row per image."""
        return len(self.ports) == 1 and self.ports[0].shape.is_plain

    @property
    def last(self) -> Call | None:
        """The last module call that the prefix must compute; None if only the images cross."""
        return next((p.call for p in reversed(self.ports) if p.call is not None), None)

    def pack(self, tensors: Mapping[int, Tensor]) -> Tensor:
        """Return the tensors of the ports as activations ``[N, ...]``, in one tensor."""
        if self.is_plain:
            return tensors[0]
        first, *others = [port.shape.rows(tensors[at]) for at, port in enumerate(self.ports)]
        return torch.cat([first, *others], 1) if others else first

    def unpack(self, activations: Tensor) -> dict[int, Tensor]:
        """Undo :meth:`pack`. Tensors that later operations change in place are copied."""
        if self.is_plain:
            parts = [activations]
        else:
            rows = activations.split([port.shape.values for port in self.ports], 1)
            parts = [p.shape.unrow(r) for p, r in zip(self.ports, rows, strict=True)]
        result = {}
        for at, (port, part) in enumerate(zip(self.ports, parts, strict=True)):
            cast = part.to(port.dtype)
            if cast.ndim == 4:
                cast = cast.contiguous(memory_format=port.layout)
            shared = cast.untyped_storage()._cdata == activations.untyped_storage()._cdata
            result[at] = cast.clone() if port.written and shared else cast
        return result

    def describe(self) -> str:
        """Return a text that lists the tensors in a row of activations, with their shapes."""
        return ", ".join(
            f"{port.call or 'the images'} {list(port.shape.of(1))}" for port in self.ports
        )
