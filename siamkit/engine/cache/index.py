"""The index of a store: finds the shard and row of each key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siamkit.engine.cache.layout import KEY_BYTES
from siamkit.engine.cache.shards import Keys, Shard


class RowIndex:
    """Maps the keys of cached rows to files (shards) and positions, in arrays of 28 bytes per row.

    Args:
        shards: The shards. If two have the same key, the first one's row counts.
    """

    def __init__(self, shards: Sequence[Shard] = ()) -> None:
        self.shards = tuple(shards)
        counts = [shard.header.count for shard in shards]
        keys = np.concatenate([np.empty(0, f"S{KEY_BYTES}"), *(shard.keys for shard in shards)])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._shard = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        starts = np.cumsum([0, *counts])[:-1]
        self._row = (np.arange(len(keys)) - np.repeat(starts, counts))[order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Keys) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return, for each key, the number of its shard (-1 if none) and its row in the shard."""
        if not len(self):
            return np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self)] = 0
        shard = np.where(self._keys[at] == keys, self._shard[at], np.int32(-1))
        return shard, self._row[at]
