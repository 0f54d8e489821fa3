"""Sources of batches: a kernel that runs the frozen prefix, or the cache; and their inputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from siamkit.batches import Batch, BatchSource
from siamkit.engine.cache.rows import Rows
from siamkit.engine.kernels import Kernel, run

TRAIN = "train"
"""The name of the inputs that a run trains on first and foremost."""


class Inputs(Protocol):
    """Inputs of a network that can be read again: in batches, one by one, and by key.

    Attributes:
        trains: True where a run trains on them, a view per epoch; False where they are evaluated
            after each epoch, in one view.
        source: Gives them in batches.
    """

    @property
    def trains(self) -> bool:
        """Whether a run trains on them."""
        ...

    @property
    def source(self) -> BatchSource:
        """Gives the inputs in batches."""
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
        """Return a key of the content of one view of every image, in order."""
        ...

    def require_unchanged(self, indices: Sequence[int]) -> None:
        """Raise an error where an image is no longer what its key was made of."""
        ...


class LiveSource:
    """Loads images and runs the prefix on them.

    Args:
        source: Gives the images.
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

    Args:
        labels: The label of each image.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._view = -1
        self._rows: Rows | None = None

    def show(self, view: int, rows: Rows) -> None:
        """Read a view's rows, one an image, from now on."""
        self._view, self._rows = view, rows

    def shows(self, view: int) -> bool:
        """Tell whether it reads this view's rows."""
        return self._view == view

    def batches(self, batches: Iterable[Sequence[int]], view: int = 0) -> Iterator[Batch]:
        """Yield the activations of each batch; :meth:`show` comes first."""
        if self._rows is None or view != self._view:
            raise LookupError(f"view {view} of the images is not shown")
        for indices in batches:
            index = torch.tensor(indices, dtype=torch.int64)
            yield Batch(unpack(self._rows.gather(index)), self._labels[index], index)

    def close(self) -> None:
        """Do nothing: rows are read where they are needed."""


class Awaited(Iterator[Batch]):
    """Batches, and how long their reader waited for them.

    On a GPU a kernel that runs the prefix may still be at work when its batch is handed over: what
    is left of it counts to whoever uses the batch.

    Attributes:
        seconds: Waited so far.

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
    """Put the channels of maps last, as the kernels leave them in memory."""
    return activations.permute(0, 2, 3, 1) if activations.ndim == 4 else activations


def unpack(rows: Tensor) -> Tensor:
    """Undo :func:`pack`, in float32; a map comes out as ``[N, C, H, W]`` in channels_last."""
    rows = rows.float()
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
