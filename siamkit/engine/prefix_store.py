"""The prefix store: the cached rows of one prefix, filled within a budget and checked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamkit.engine.cache.budget import list_stores, make_room, require_room
from siamkit.engine.cache.layout import DATA_START, KEY_BYTES, StoreSpec
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import DTYPES, FeatureStore, Fill, open_store
from siamkit.engine.cutting import Cut
from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels import Kernel, run, tolerance
from siamkit.engine.sources import pack, unpack
from siamkit.errors import ResourceError
from siamkit.model.trace import evaluating

Loaded = Generator[tuple[Sequence[int], Tensor], None, None]
"""Positions of images, and the images ``[n, C, H, W]`` themselves, part by part."""

_ROUNDING = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest difference of a row from the network's, relative to its largest value: what its type
rounds away, and a margin for another kernel's arithmetic."""


class PrefixStore:
    """The rows of one prefix by key. It holds its store in use from first need to :meth:`close`.

    Args:
        cut: The cut network.
        description: What decides a row but for its key; see :func:`siamkit.engine.identity`.
        shape: The shape of the prefix's output for one image.
        dtype: The type of the rows.
        numerics: The class of the kernels that compute rows.
        root: The folder of all stores.
    """

    def __init__(
        self,
        cut: Cut,
        description: Mapping[str, Any],
        shape: Sequence[int],
        dtype: torch.dtype,
        numerics: str,
        root: Path,
    ) -> None:
        self._cut, self._description = cut, dict(description)
        self._shape = tuple(pack(torch.empty(1, *shape, device="meta")).shape[1:])
        self._dtype, self._root = dtype, root
        self._spec = StoreSpec(self._description, DTYPES[dtype], self._shape)
        self._store: FeatureStore | None = None
        self.tolerance = allowed(dtype, numerics)

    @property
    def exists(self) -> bool:
        """Whether it is on the disk; nothing is made by asking."""
        return (self._root / self._spec.digest).is_dir()

    def bytes_of(self, rows: int) -> int:
        """Return the bytes that so many rows take, with their keys."""
        return rows * (self._spec.row_bytes + KEY_BYTES) + DATA_START

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the keys without a row, in order and each key once."""
        return self._opened().missing(keys)

    def fill(
        self,
        keys: Sequence[bytes],
        kernel: Kernel,
        load: Callable[[list[int]], Loaded],
        budget: int,
        *,
        keep: Sequence[bytes],
        strict: bool = False,
        on_wait: Callable[[], None] | None = None,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Compute the rows that are still missing once no other process fills the store.

        Args:
            keys: The keys that are to have a row.
            kernel: Runs the prefix.
            load: Given positions of keys, yields these positions with their images.
            budget: Bytes that all stores may take together: others are evicted, and other rows.
            keep: Keys whose rows are not evicted.
            strict: Refuse to go over the budget where other processes use what would be evicted.
            on_wait: Called when another process is filling it, before waiting for that.
            check: Called now and then; may raise to stop.
            progress: Called with how many rows are done, and how many there are to do.

        Raises:
            ResourceError: The disk or (``strict``) the budget is full; what was filled is kept.
            OverflowInCache: A value is too large for the type of the rows.
        """
        with self._opened().filling(on_wait, check) as fill, evaluating(self._cut.net):
            missing = fill.missing(keys)
            if not missing:
                return
            self._make_room(fill, len(missing), budget, keep, strict)
            done = 0
            # An error's traceback would keep the generator, and with it worker processes, alive.
            with closing(load(missing)) as parts:
                for part, images in parts:
                    fill.add([keys[at] for at in part], pack(run(kernel, images)))
                    done += len(part)
                    progress(done, len(missing))
                    check()

    def rows(self, keys: Sequence[bytes]) -> Rows:
        """Return the rows of keys, in order.

        Raises:
            LookupError: One has no row (any more).
        """
        return self._opened().rows(keys)

    def discrepancy(self, rows: Tensor, images: Tensor) -> float:
        """Return how far rows are from what the plain network gives for their images now.

        Args:
            rows: As they were read, ``[N, ...]``.
            images: ``[N, C, H, W]``, on the network's device.

        Returns:
            The largest difference, relative to the network's largest value.
        """
        with evaluating(self._cut.net):
            plain = self._cut.prefix(images.contiguous(memory_format=torch.channels_last))
        return relative_difference(unpack(rows), plain.float().cpu())

    def drop(self, on_wait: Callable[[], None] | None = None) -> None:
        """Remove all rows. Processes that read some of them go on reading."""
        with self._opened().filling(on_wait) as fill:
            fill.shed((), sum(other.bytes for other in list_stores(self._root)))

    def notices(self) -> list[str]:
        """Return what was wrong with its files since the last call, a sentence each."""
        if self._store is None:
            return []
        texts = list(self._store.notices)
        self._store.notices.clear()
        return texts

    def close(self) -> None:
        """Let the store go: from now on it may be removed."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened(self) -> FeatureStore:
        if self._store is None:
            self._store = open_store(self._root, self._description, self._shape, self._dtype)
        return self._store

    def _make_room(
        self, fill: Fill, rows: int, budget: int, keep: Sequence[bytes], strict: bool
    ) -> None:
        """Evict what the budget does not allow: other stores, then other rows of this one."""
        needed = self.bytes_of(rows)
        make_room(self._root, budget, needed)
        stores = list_stores(self._root)
        over = sum(store.bytes for store in stores) + needed - budget
        over -= fill.shed(keep, over)
        used = sum(store.bytes for store in stores if store.digest != self._spec.digest)
        if strict and used and over > 0:
            raise ResourceError(
                f"{rows} new rows take {needed / 1e6:,.1f} MB, and stores that are in use take "
                f"{used / 1e6:,.1f} MB of the budget of {budget / 1e6:,.1f} MB",
                where=str(self._root),
                hint="close other feature caches, or give a larger budget",
            )
        require_room(self._root, needed)


def allowed(dtype: torch.dtype, numerics: str) -> float:
    """Return the largest discrepancy that a row's type and its arithmetic explain."""
    return max(_ROUNDING[dtype], tolerance(numerics))
