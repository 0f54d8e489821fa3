"""Output templates: rebuild a module's output for any number of images.

Outputs for two numbers of images show which dimension of each tensor grows with the number of
images. So the output can be rebuilt for any number. Values that the suffix needs come from the
activations, values that it does not need are NaN, and constants stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from siamkit.engine.blank import blank
from siamkit.errors import SiamkitError

TRACED = 2
"""The number of images in the forward that the data-flow tracker follows."""


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor for any number of images.

    Attributes:
        sizes: The size of each dimension; of a dimension that grows with the number of images, the
            size per image.
        counts: For each dimension, whether its size is proportional to the number of images.
    """

    sizes: tuple[int, ...]
    counts: tuple[bool, ...]

    @classmethod
    def between(cls, one: torch.Size, other: torch.Size, counts: tuple[int, int]) -> Shape:
        """Return the shape of a tensor that is seen at two numbers of images.

        Args:
            one: The tensor's shape for ``counts[0]`` images.
            other: The tensor's shape for ``counts[1]`` images.
            counts: The two numbers of images.

        Raises:
            SiamkitError: A dimension is neither constant nor proportional to the number of images.
        """
        sizes, scaled = [], []
        for a, b in zip(one, other, strict=True):
            scales = a != b
            if scales and (a % counts[0] or a // counts[0] * counts[1] != b):
                raise SiamkitError(
                    f"its shape is {list(one)} for {counts[0]} images and {list(other)} for "
                    f"{counts[1]}"
                )
            sizes.append(a // counts[0] if scales else a)
            scaled.append(scales)
        return cls(tuple(sizes), tuple(scaled))

    def of(self, images: int) -> tuple[int, ...]:
        """Return the shape for a number of images."""
        return tuple(
            size * images if c else size for size, c in zip(self.sizes, self.counts, strict=True)
        )

    @property
    def axis(self) -> int | None:
        """The dimension that grows with the number of images, if there is exactly one."""
        return self.counts.index(True) if sum(self.counts) == 1 else None

    @property
    def values(self) -> int:
        """The number of values per image."""
        return prod(self.sizes)

    @property
    def is_plain(self) -> bool:
        """True if the tensor has two or more dimensions, and the first has one row per image."""
        return self.axis == 0 and self.sizes[0] == 1 and len(self.sizes) > 1

    def rows(self, tensor: Tensor) -> Tensor:
        """Flatten a tensor that has this shape to ``[N, values]``, one row per image."""
        assert self.axis is not None
        first = tensor.movedim(self.axis, 0)
        return first.reshape(len(first) // self.sizes[self.axis], self.values)

    def unrow(self, rows: Tensor) -> Tensor:
        """Undo :meth:`rows`."""
        assert self.axis is not None
        rest = [size for at, size in enumerate(self.sizes) if at != self.axis]
        return rows.reshape(len(rows) * self.sizes[self.axis], *rest).movedim(0, self.axis)


class Leaf:
    """A value in an output: a tensor, a number or an object."""

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Any:
        """Return the value for a number of images.

        Args:
            images: The number of images.
            activations: The tensors that cross the boundary, by their number (see
                :attr:`~siamkit.engine.frontier.Frontier.ports`).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Unchanged(Leaf):
    """A value that is the same for all images."""

    value: Any
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Any:
        """Return the value; a copy if it is a tensor that is changed in place."""
        return self.value.clone() if self.written else self.value


@dataclass(frozen=True)
class Count(Leaf):
    """The number of images."""

    def make(self, images: int, activations: Mapping[int, Tensor]) -> int:
        """Return the number of images."""
        return images


@dataclass(frozen=True)
class Repeated(Leaf):
    """A constant that is repeated for each image, such as a class token.

    Attributes:
        value: The value for one image.
        axis: The dimension that grows with the number of images.
        written: Whether later operations change the value in place.
    """

    value: Tensor
    axis: int
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return the value for all images; if possible, as a view that needs no memory."""
        size = self.value.shape[self.axis]
        if size != 1:
            return torch.cat([self.value] * images, self.axis)
        shape = [images if at == self.axis else -1 for at in range(self.value.ndim)]
        value = self.value.expand(shape)
        return value.clone() if self.written else value


@dataclass(frozen=True)
class Blank(Leaf):
    """A tensor whose values do not matter; see :mod:`siamkit.engine.blank`.

    The values are NaN, so that a use still shows after an operation that returns a plain tensor.
    """

    BLANK: ClassVar[float] = float("nan")
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return a view of a single value; a full tensor if it is changed in place."""
        shape = self.shape.of(images)
        number = self.dtype.is_floating_point or self.dtype.is_complex
        value = torch.full((), self.BLANK if number else 0, dtype=self.dtype, device=self.device)
        view = value.expand(shape)
        return blank(view.clone() if self.written else view)


@dataclass(frozen=True)
class Given(Leaf):
    """A tensor that the activations hold.

    Attributes:
        port: The tensor's number among the tensors that cross the boundary.
    """

    port: int

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return the tensor."""
        return activations[self.port]
