"""A module's output as a template: what varies with the images, and in what shape.

Seen at two numbers of images, an output tells which dimension of its tensors counts images. So it
can be made again for any number of them: from activations where its values matter, of NaN where
they do not, and as it is where it is a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from siamkit.errors import SiamkitError

SEEN = (2, 3)
"""The numbers of images at which outputs are recorded."""


@dataclass(frozen=True)
class Shape:
    """The shape of a tensor for any number of images.

    Attributes:
        sizes: The size of each dimension; where it counts images, how many entries each has.
        counts: Whether a dimension counts images.
    """

    sizes: tuple[int, ...]
    counts: tuple[bool, ...]

    @classmethod
    def between(cls, two: torch.Size, three: torch.Size) -> Shape:
        """Return the shape that is ``two`` for two images and ``three`` for three.

        Raises:
            SiamkitError: A dimension follows another rule.
        """
        sizes, counts = [], []
        for a, b in zip(two, three, strict=True):
            scales = a != b
            if scales and (a % SEEN[0] or a // SEEN[0] * SEEN[1] != b):
                raise SiamkitError(
                    f"its shape is {list(two)} for {SEEN[0]} images and {list(three)} for {SEEN[1]}"
                )
            sizes.append(a // SEEN[0] if scales else a)
            counts.append(scales)
        return cls(tuple(sizes), tuple(counts))

    def of(self, images: int) -> tuple[int, ...]:
        """Return the shape for a number of images."""
        return tuple(
            size * images if c else size for size, c in zip(self.sizes, self.counts, strict=True)
        )

    @property
    def axis(self) -> int | None:
        """The dimension that counts images, if there is exactly one."""
        return self.counts.index(True) if sum(self.counts) == 1 else None

    @property
    def values(self) -> int:
        """The number of values per image."""
        return prod(self.sizes)

    @property
    def is_plain(self) -> bool:
        """Whether a tensor of this shape holds one row per image, of one dimension or more."""
        return self.axis == 0 and self.sizes[0] == 1 and len(self.sizes) > 1

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of this shape as one row per image ``[N, values]``."""
        assert self.axis is not None
        first = tensor.movedim(self.axis, 0)
        return first.reshape(len(first) // self.sizes[self.axis], self.values)

    def unrow(self, rows: Tensor) -> Tensor:
        """Undo :meth:`rows`."""
        assert self.axis is not None
        rest = [size for at, size in enumerate(self.sizes) if at != self.axis]
        return rows.reshape(len(rows) * self.sizes[self.axis], *rest).movedim(0, self.axis)


class Leaf:
    """Something in an output: a tensor, a number, an object."""

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Any:
        """Return it for a number of images.

        Args:
            images: The number.
            activations: What tensors hold, by the number of the port.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Leaf):
    """The same for any images."""

    value: Any
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Any:
        """Return the value; a copy of a tensor that is written to."""
        return self.value.clone() if self.written else self.value


@dataclass(frozen=True)
class Count(Leaf):
    """The number of images."""

    def make(self, images: int, activations: Mapping[int, Tensor]) -> int:
        """Return the number."""
        return images


@dataclass(frozen=True)
class Repeated(Leaf):
    """A constant that is there once per image, such as a class token.

    Attributes:
        value: For one image.
        axis: The dimension that counts images.
        written: Whether what follows writes to it.
    """

    value: Tensor
    axis: int
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return it for each image; a view that costs no memory unless it is written to."""
        size = self.value.shape[self.axis]
        if size != 1:
            return torch.cat([self.value] * images, self.axis)
        shape = [images if at == self.axis else -1 for at in range(self.value.ndim)]
        value = self.value.expand(shape)
        return value.clone() if self.written else value


@dataclass(frozen=True)
class Blank(Leaf):
    """A tensor whose values do not matter: NaN, so that it would show if they did."""

    BLANK: ClassVar[float] = float("nan")
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    written: bool = False

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return a view of a single value; a tensor of its own where it is written to."""
        shape = self.shape.of(images)
        number = self.dtype.is_floating_point or self.dtype.is_complex
        value = torch.full((), self.BLANK if number else 0, dtype=self.dtype, device=self.device)
        return value.expand(shape).clone() if self.written else value.expand(shape)


@dataclass(frozen=True)
class Given(Leaf):
    """A tensor that the activations hold.

    Attributes:
        port: Its number among the tensors that they hold.
    """

    port: int

    def make(self, images: int, activations: Mapping[int, Tensor]) -> Tensor:
        """Return the activations."""
        return activations[self.port]
