"""Fast reading of cached rows on a GPU: rows in its memory, and batches that are read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from siamkit.engine.cache.rows import Rows

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

_SHARE = 1 / 8
"""The share of the free memory that the rows of one image set may take. A run reads up to four sets
at once, and each further set gets its share of what is left."""

_PART = 64 << 20  # bytes that are uploaded at once


def fits(nbytes: int, free: int | None) -> bool:
    """Return whether rows may stay in the memory of a device.

    Args:
        nbytes: The bytes of the rows.
        free: The free memory of the device; None if it is not known.
    """
    return free is not None and nbytes <= _SHARE * free


class ResidentRows:
    """Cached rows in the memory of a device. Reading them copies no values from the host.

    Args:
        rows: The rows on the disk.
        device: The device.
    """

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._rows = torch.empty(len(rows), *rows.shape, dtype=rows.dtype, device=device)
        size = max(_PART * len(rows) // max(rows.nbytes, 1), 1)
        for start in range(0, len(rows), size):
            part = torch.arange(start, min(start + size, len(rows)))
            self._rows[start : start + size].copy_(rows.gather(part))

    def gather(self, positions: Tensor) -> Tensor:
        """Return rows in a new tensor ``[n, ...]`` on the device; see :meth:`.Rows.gather`."""
        return self._rows.index_select(0, positions.to(self._rows.device, non_blocking=True))


def read_ahead(items: Iterable[Item], load: Callable[[Item], Loaded]) -> Iterator[Loaded]:
    """Yield ``load(item)`` of each item, in order. A thread loads the next one meanwhile.

    An exception of ``load`` is raised where its result would be yielded.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting = (thread.submit(load, item) for item in items)
        current = next(waiting, None)
        while current is not None:
            loaded = current.result()
            current = next(waiting, None)
            yield loaded
