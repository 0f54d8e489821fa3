"""Batches and their sources: the types that loaders, the engine and training share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass: images, or the cached output of the network's frozen part.

    Attributes:
        inputs: Images ``[N, C, H, W]`` float32, normalised; or the frozen part's output
            ``[N, ...]``.
        labels: ``[N]`` int64.
        indices: ``[N]`` int64, the positions of the images in the image set.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on ``device``."""
        move = (t.to(device, non_blocking=non_blocking) for t in vars(self).values())
        return Batch(*move)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Return several batches as one, in order."""
        parts = zip(*(vars(batch).values() for batch in batches), strict=True)
        return cls(*(torch.cat(tensors) for tensors in parts))


class BatchSource(Protocol):
    """Yields batches of one image set: images, or the output of the network's frozen part."""

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield a batch for each of ``batches``, in order.

        Args:
            batches: The image indices of each batch.
            view: The number, from 0, of the view (augmentation) of every image to yield.
        """
        ...

    def close(self) -> None:
        """End worker processes. Later calls of :meth:`batches` start new ones."""
        ...


def zipped(sources: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Yield joined batches: the n-th one joins the n-th batches of all iterators."""
    if len(sources) == 1:
        yield from sources[0]
        return
    for parts in zip(*sources, strict=True):
        yield Batch.joined(parts)
