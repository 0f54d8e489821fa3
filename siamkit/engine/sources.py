"""Batch sources: yield activations from a kernel that runs the prefix, or from the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from siamkit.batches import Batch, BatchSource
from siamkit.engine.cache.rows import Rows
from siamkit.engine.kernels import Kernel, run
from siamkit.engine.reading import ResidentRows, fits, read_ahead
from siamkit.model.device import free_memory_of

TRAIN = "train"
"""The name of the main set of training inputs."""


class Inputs(Protocol):
    """The images of one data set, which the engine reads in batches or one by one.

    Each view (augmented version) of an image has a key, by which its cached row is found.

    Attributes:
        trains: True if the run trains on the inputs, with one view per epoch; False if the inputs
            are evaluated after each epoch, always in the same view.
        source: Yields the inputs in batches.
    """

    @property
    def trains(self) -> bool:
        """Whether the run trains on these inputs."""
        ...

    @property
    def source(self) -> BatchSource:
        """Yields the inputs in batches."""
        ...

    @property
    def labels(self) -> Sequence[int]:
        """The label of each image."""
        ...

    def __len__(self) -> int: ...

    def example(self, index: int, view: int) -> Tensor:
        """Return one view ``[C, H, W]`` of one image."""
        ...

    def keys(self, view: int) -> Sequence[bytes]:
        """Return one view's key for every image, in order. A key depends on the image's content."""
        ...

    def require_unchanged(self, indices: Sequence[int]) -> None:
        """Raise an error if an image changed after its key was computed."""
        ...


class LiveSource:
    """Loads images and runs the prefix on them.

    Args:
        source: Yields the images.
        kernel: Runs the prefix.
    """

    def __init__(self, source: BatchSource, kernel: Kernel) -> None:
        self._source, self._kernel = source, kernel

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield the activations of each batch."""
        for batch in self._source.batches(batches, view):
            yield Batch(run(self._kernel, batch.inputs), batch.labels, batch.indices)

    def close(self) -> None:
        """End the worker processes."""
        self._source.close()


class CachedSource:
    """Reads activations from the cache, without worker processes.

    On a GPU, rows that fit are copied into its memory, if they may stay there. The batches of other
    rows are read one ahead, into page-locked memory, from which they are uploaded without waiting.

    Args:
        labels: The label of each image.
        device: The device that computes with the activations.
        keep: Whether the rows may stay in the memory of a GPU. They should not if what follows
            needs much memory.
    """

    def __init__(
        self, labels: Sequence[int], device: torch.device | str = "cpu", keep: bool = False
    ) -> None:
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._device, self._keep = torch.device(device), keep
        self._view = -1
        self._rows: Rows | ResidentRows | None = None

    def show(self, view: int, rows: Rows) -> None:
        """Use these rows of a view, one per image, from now on."""
        self._view, self._rows = view, None  # frees the memory of the view before
        if self._keep and fits(rows.nbytes, free_memory_of(self._device)):
            self._rows = ResidentRows(rows, self._device)
        else:
            self._rows = rows

    def shows(self, view: int) -> bool:
        """Return whether the source uses the rows of this view."""
        return self._view == view

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield the activations of each batch. Call :meth:`show` first."""
        if self._rows is None or view != self._view:
            raise LookupError(f"there are no rows of view {view}; call show() first")
        rows = self._rows
        upload = self._device.type == "cuda" and isinstance(rows, Rows)

        def read(indices: Sequence[int]) -> Batch:
            index = torch.tensor(indices, dtype=torch.int64)
            found = rows.gather(index).float()
            return Batch(
                unpack(found.pin_memory() if upload else found), self._labels[index], index
            )

        yield from read_ahead(batches, read) if upload else map(read, batches)

    def close(self) -> None:
        """Do nothing, because there are no worker processes."""


class Awaited(Iterator[Batch]):
    """An iterator over batches that measures how long its caller waits for them.

    On a GPU, the kernel of the prefix may still run when its batch is returned. The time that the
    kernel then still takes is not counted.

    Attributes:
        seconds: The time waited so far.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __next__(self) -> Batch:
        """Return the next batch."""
        started = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - started


def pack(activations: Tensor) -> Tensor:
    """Move the channels of feature maps last, which is the kernels' memory layout."""
    return activations.permute(0, 2, 3, 1) if activations.ndim == 4 else activations


def unpack(rows: Tensor) -> Tensor:
    """Undo :func:`pack`, in float32. Feature maps become ``[N, C, H, W]`` in channels_last."""
    rows = rows.float()
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
