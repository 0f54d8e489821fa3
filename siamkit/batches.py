"""Batches, and the sources that give them: what loaders, the engine and training agree on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The inputs that go through a network, or through its suffix, together.

    Attributes:
        inputs: Images ``[N, C, H, W]`` float32, normalised; or activations ``[N, ...]``.
        labels: ``[N]`` int64.
        indices: ``[N]`` int64, into the image set.
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
        """Return one batch of several, in order."""
        parts = zip(*(vars(batch).values() for batch in batches), strict=True)
        return cls(*(torch.cat(tensors) for tensors in parts))


class BatchSource(Protocol):
    """Gives the batches of one image set: images, or activations at a boundary."""

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield a batch for each of ``batches``, in order.

        Args:
            batches: The image indices of each batch.
            view: Which view of the images.
        """
        ...

    def close(self) -> None:
        """End worker processes; more batches may be asked for afterwards."""
        ...


def zipped(sources: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the batches of several iterators, those of one turn joined to one."""
    if len(sources) == 1:
        yield from sources[0]
        return
    for turn in zip(*sources, strict=True):
        yield Batch.joined(turn)
