"""The prefix store: the cached outputs (rows) of one prefix, kept within a budget and checked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

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
from siamkit.model.device import laid_out_for
from siamkit.model.trace import evaluating
from siamkit.words import data_size, plural

Loaded = Generator[tuple[Sequence[int], Tensor], None, None]
"""Yields, batch by batch, the positions of images and the images ``[n, C, H, W]``."""

_ROUNDING = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest allowed difference of a row from the network's output, relative to the output's largest
value: the rounding to the row's type, and a margin for the arithmetic of other kernels."""


Strict = Literal["no", "others", "yes"]


class PrefixStore:
    """The cached outputs (rows) of one prefix, by key, in a folder on the disk.

    From the first use until :meth:`close`, no other process can remove the folder.

    Args:
        cut: The cut network.
        description: Everything but the key that determines a row; see
            :mod:`siamkit.engine.identity`.
        shape: The shape of the prefix's output for one image.
        dtype: The type of the rows.
        numerics: The name of the kernels' arithmetic, such as ``cpu-fp32``.
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
        """Whether the store exists on the disk."""
        return (self._root / self._spec.digest).is_dir()

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of a number of rows, with their keys."""
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
        strict: Strict = "no",
        on_wait: Callable[[], None] | None = None,
        check: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Compute missing rows, after waiting for another process that fills the store.

        Args:
            keys: The keys that need a row.
            kernel: Runs the prefix.
            load: Takes positions in ``keys``, and yields each position with its image.
            budget: Bytes that all stores may take together. Other stores and rows are evicted if
                they would take more.
            keep: Keys whose rows are not evicted.
            strict: When to raise an error if the budget is exceeded although all rows that nobody
                uses were evicted: never, if stores of others take a part of it, or always.
            on_wait: Called before waiting for another process that fills the store.
            check: Called regularly; may raise to stop.
            progress: Called with the number of computed rows and the number of rows to compute.

        Raises:
            ResourceError: The disk or (with ``strict``) the budget is full; computed rows are kept.
            OverflowInCache: A value is too large for the type of the rows.
        """
        with self._opened().filling(on_wait, check) as fill, evaluating(self._cut.net):
            missing = fill.missing(keys)
            if not missing:
                return
            self._make_room(fill, len(missing), budget, keep, strict)
            done = 0
            # Close the generator: an error's traceback would keep its worker processes alive.
            with closing(load(missing)) as parts:
                for part, images in parts:
                    fill.add([keys[at] for at in part], pack(run(kernel, images)))
                    done += len(part)
                    progress(done, len(missing))
                    check()

    def rows(self, keys: Sequence[bytes]) -> Rows:
        """Return the rows of keys, in order.

        Raises:
            LookupError: A key has no row, or its row was evicted.
        """
        return self._opened().rows(keys)

    def discrepancy(self, rows: Tensor, images: Tensor) -> float:
        """Return the difference between stored rows and the network's output for their images.

        Args:
            rows: Stored rows ``[N, ...]``.
            images: The images ``[N, C, H, W]`` of the rows, on the network's device.

        Returns:
            The largest difference, relative to the network's largest value.
        """
        with evaluating(self._cut.net):
            plain = self._cut.prefix(laid_out_for(self._cut.net, images))
        return relative_difference(unpack(rows), plain.float().cpu())

    def drop(self, on_wait: Callable[[], None] | None = None) -> None:
        """Remove all rows. Processes that are reading some of them can continue."""
        with self._opened().filling(on_wait) as fill:
            fill.shed((), sum(other.bytes for other in list_stores(self._root)))

    def notices(self) -> list[str]:
        """Return the problems with the store's files since the last call, one sentence each."""
        if self._store is None:
            return []
        texts = list(self._store.notices)
        self._store.notices.clear()
        return texts

    def close(self) -> None:
        """Release the store, which may then be removed."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened(self) -> FeatureStore:
        if self._store is None:
            self._store = open_store(self._root, self._description, self._shape, self._dtype)
        return self._store

    def _make_room(
        self, fill: Fill, rows: int, budget: int, keep: Sequence[bytes], strict: Strict
    ) -> None:
        """Evict other stores, and then other rows of this store, until the budget suffices."""
        needed = self.bytes_of(rows)
        make_room(self._root, budget, needed)
        stores = list_stores(self._root)
        over = sum(store.bytes for store in stores) + needed - budget
        over -= fill.shed(keep, over)
        others = any(store.bytes for store in stores if store.digest != self._spec.digest)
        if over > 0 and (strict == "yes" or (strict == "others" and others)):
            used = over + budget - needed
            raise ResourceError(
                f"{plural(rows, 'new row')} need {data_size(needed)}, and the rows in use take "
                f"{data_size(used)} of the budget of {data_size(budget)}",
                where=str(self._root),
                hint="close other feature caches, or use a larger budget",
            )
        require_room(self._root, needed)


def allowed(dtype: torch.dtype, numerics: str) -> float:
    """Return the largest discrepancy that the type of the rows and the arithmetic explain."""
    return max(_ROUNDING[dtype], tolerance(numerics))
