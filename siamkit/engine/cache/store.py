"""A store: rows by key, filled by one process at a time, read by many."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.engine.cache.index import RowIndex
from siamkit.engine.cache.layout import (
    STORE_FILE,
    TEMPORARY,
    USERS,
    StoreSpec,
    disk_hint,
    is_our_name,
    is_shard_name,
)
from siamkit.engine.cache.locks import Use, fill_locked, root_locked
from siamkit.engine.cache.rows import Rows, memory
from siamkit.engine.cache.shards import Keys, Shard, ShardWriter, pack
from siamkit.errors import ResourceError, SiamkitError
from siamkit.files import is_there, sweep, write_atomic, writing
from siamkit.spelling import command
from siamkit.words import plural

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The types in which rows can be stored, and their names in safetensors."""

SHARD_BYTES = 256 << 20
"""A shard is published at this size. Each open shard costs a file descriptor."""

SHARD_SECONDS = 20.0
"""A shard is published after this time, which limits the work that a crash loses."""

_LOSS = 0.02
# A long fill may lose 2 % of its work, so that the number of shards does not grow without limit.


class OverflowInCache(SiamkitError):
    """A finite value is too large for the store's dtype."""


def open_store(
    root: Path, description: Mapping[str, Any], shape: Sequence[int], dtype: torch.dtype
) -> FeatureStore:
    """Open the store of the described rows, or create it.

    Args:
        root: The folder of all stores.
        description: The facts that determine the row of a key, as JSON values.
        shape: The shape of a row.
        dtype: One of :data:`DTYPES`.

    Raises:
        ResourceError: The folder cannot be written.
    """
    spec = StoreSpec(description, DTYPES[dtype], tuple(shape))
    digest = spec.digest
    path = root / digest
    notices = []
    with root_locked(root):
        with writing(path, disk_hint()):
            path.mkdir(exist_ok=True)
            sweep(path)
        file, text = path / STORE_FILE, spec.to_json()
        if StoreSpec.read(path) != StoreSpec.parse(text):
            if is_there(file):
                notices.append(f"{file}: the file was damaged and is written again")
            write_atomic(file, text, disk_hint())
        use = Use(path)
    try:
        return FeatureStore(path, spec, dtype, use, notices)
    except BaseException:
        use.end()
        raise


class FeatureStore:
    """An open store: a folder of cached rows, by key. Use it in ``with``, or call :meth:`close`.

    Attributes:
        path: The store's folder, named by the digest of the store's spec.
        notices: Problems with the store's files, one sentence each. Damaged shards are removed, so
            that their rows are missing again.
    """

    def __init__(
        self, path: Path, spec: StoreSpec, dtype: torch.dtype, use: Use, notices: list[str]
    ) -> None:
        self.path, self.spec, self.dtype, self.notices = path, spec, dtype, notices
        self._use = use
        self._index = RowIndex()
        self._touch()
        self._refresh()

    @property
    def row_bytes(self) -> int:
        """The size of a row on the disk, without its key."""
        return self.spec.row_bytes

    def __len__(self) -> int:
        return len(self._index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the store, which may then be evicted."""
        self._touch()
        self._use.end()

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the keys that have no row, in order and each key once.

        Every shard that holds a row of ``keys`` is checked against its checksum once. A damaged
        shard is removed.
        """
        return self._missing(pack(keys))

    def _missing(self, keys: Keys) -> list[int]:
        absent = np.flatnonzero(self._find(keys)[0] < 0)
        _, first = np.unique(keys[absent], return_index=True)
        return np.sort(absent[first]).tolist()  # type: ignore[no-any-return]

    def rows(self, keys: Sequence[bytes]) -> Rows:
        """Return the rows of ``keys``, to gather from.

        Raises:
            LookupError: A key has no row; see :meth:`missing`.
            ResourceError: The process may not open as many files as hold the rows.
        """
        shard, row = self._find(pack(keys))
        if absent := int((shard < 0).sum()):
            raise LookupError(f"{absent} of {len(keys)} keys have no row in {self.path}")
        try:
            return Rows(self._index.shards, shard, row, self.spec.shape, self.dtype)
        except FileNotFoundError:  # another process evicted rows meanwhile
            self._refresh()
            raise LookupError(f"rows in {self.path} are gone") from None
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise ResourceError(
                f"its rows lie in {plural(len(self._index.shards), 'file')}, more than the process "
                "may open",
                where=str(self.path),
                hint="raise the limit ('ulimit -n 65536'), or empty the cache "
                f"({command('cache clear')}): a new one has fewer and larger files",
            ) from None

    @contextmanager
    def filling(
        self,
        on_wait: Callable[[], None] | None = None,
        check: Callable[[], None] = lambda: None,
        *,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> Iterator[Fill]:
        """Yield the right to add rows, which only one process has at a time.

        Added rows are published regularly and at the end, also after an exception. Call
        :meth:`Fill.missing` first, because another process may have added the rows.

        Args:
            on_wait: Called before waiting for another process that fills the store.
            check: Called repeatedly while waiting; may raise to stop.
            shard_bytes: Publish after this number of bytes.
            shard_seconds: Publish after this number of seconds.

        Raises:
            ResourceError: The disk is full or not writable; published rows are intact.
        """
        with fill_locked(self.path, on_wait, check):
            with writing(self.path, disk_hint()):
                # A living writer would hold the lock, so the writers of these files have ended.
                for orphan in self.path.glob(f"{TEMPORARY}*"):
                    orphan.unlink(missing_ok=True)
            self._refresh()
            fill = Fill(self, shard_bytes, shard_seconds)
            try:
                yield fill
            except BaseException:
                with suppress(SiamkitError):
                    fill.publish()
                raise
            fill.publish()

    def _find(self, keys: Keys) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find rows in verified shards only."""
        while True:
            shard, row = self._index.find(keys)
            needed = [self._index.shards[i] for i in np.unique(shard) if i >= 0]
            unusable = {s for s in needed if not self._is_usable(s)}
            if not unusable:
                return shard, row
            self.forget(unusable)

    def _is_usable(self, shard: Shard) -> bool:
        """Return whether a shard is intact; drop a damaged one, and ignore one that is unreadable.

        Too many open files, or a network that fails, are no damage.
        """
        try:
            if shard.verify():
                return True
            self._drop(shard.path, "the checksum is wrong")
        except FileNotFoundError:
            pass  # another process dropped it
        except OSError as error:
            self._ignore(shard.path, error)
        return False

    def _ignore(self, path: Path, error: OSError) -> None:
        self._notify(f"{path}: ignored, because it cannot be read: {error.strerror or error}")

    def _refresh(self) -> None:
        """Add the shards that other processes published, and ignore other files."""
        known = {shard.path.name: shard for shard in self._index.shards}
        shards = []
        with writing(self.path, disk_hint()):
            paths = sorted(self.path.iterdir())
        for path in paths:
            if path.name in known:
                shards.append(known[path.name])
            elif is_shard_name(path.name):
                try:
                    shards.append(Shard.open(path, self.path.name, self.spec))
                except FileNotFoundError:
                    continue  # another process dropped it
                except OSError as error:
                    # A path that is no file, such as a folder, is damage; what the system cannot
                    # read now, such as another user's file, is not.
                    if path.is_file():
                        self._ignore(path, error)
                    else:
                        self._drop(path, str(error))
                except ValueError as error:
                    self._drop(path, str(error))
            elif path.name != USERS and not is_our_name(path.name):
                self._notify(f"{path}: ignored, because it is not a file of the cache")
        self._index = RowIndex(shards)

    def _drop(self, path: Path, why: str) -> None:
        try:
            path.unlink(missing_ok=True)
            done = "the file is removed"
        except OSError:
            done = "it cannot be removed and is ignored"
        self._notify(f"{path}: {why}; {done}, and its rows are computed again")

    def _notify(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _touch(self) -> None:
        with suppress(OSError):
            os.utime(self.path / STORE_FILE)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of the store."""
        return self._index.shards

    def forget(self, removed: Collection[Shard]) -> None:
        """Remove shards from the index."""
        self._index = RowIndex([s for s in self._index.shards if s not in removed])

    def _adopt(self, shard: Shard) -> None:
        self._index = RowIndex([*self._index.shards, shard])


class Fill:
    """The right to add rows to a store; see :meth:`FeatureStore.filling`."""

    def __init__(self, store: FeatureStore, shard_bytes: int, shard_seconds: float) -> None:
        self._store = store
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._writer: ShardWriter | None = None
        self._pending: set[bytes] = set()
        self._start = self._published = time.monotonic()

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the keys that have no row yet, in order and each key once."""
        return [i for i in self._store.missing(keys) if keys[i] not in self._pending]

    def shed(self, wanted: Sequence[bytes], nbytes: int) -> int:
        """Remove shards, the oldest first, until ``nbytes`` are free; return the freed bytes.

        Shards that hold one of the ``wanted`` keys stay. Another process that reads a removed shard
        can continue.
        """
        keys = pack(wanted)
        removed: set[Shard] = set()
        aged = [(age, shard) for shard in self._store.shards if (age := _age(shard)) is not None]
        freed = 0
        for _, shard in sorted(aged, key=lambda pair: pair[0]):
            if freed >= nbytes:
                break
            if not np.isin(shard.keys, keys).any():
                freed += shard.path.stat().st_size
                shard.path.unlink(missing_ok=True)
                removed.add(shard)
        self._store.forget(removed)
        return freed

    def add(self, keys: Sequence[bytes], rows: Tensor) -> None:
        """Add rows. Rows whose keys already have a row are ignored.

        Args:
            keys: The keys of the rows.
            rows: `[n, *shape]`, of any float dtype; converted to the store's dtype.

        Raises:
            OverflowInCache: A finite value becomes infinite in the store's dtype; no row is added.
            ResourceError: The disk is full; published rows are intact.
        """
        if rows.shape != (len(keys), *self._store.spec.shape):
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} for {len(keys)} keys and rows of shape "
                f"{self._store.spec.shape}"
            )
        new = self.missing(keys)
        if not new:
            return
        chosen = rows.detach()
        if len(new) < len(keys):
            chosen = chosen[torch.tensor(new, device=rows.device)]
        plain = _cast(chosen, self._store.dtype)
        if self._writer is None:
            self._writer = ShardWriter(self._store.path, self._store.path.name, self._store.spec)
        added = [keys[i] for i in new]
        try:
            self._writer.add(added, memory(plain))
        except ResourceError:
            self._writer = None
            self._pending.clear()
            raise
        self._pending.update(added)
        if self._is_due():
            self.publish()

    def publish(self) -> None:
        """Publish the rows added so far.

        Raises:
            ResourceError: The disk is full; rows published before are intact.
        """
        writer, self._writer = self._writer, None
        self._pending.clear()
        self._published = time.monotonic()
        if writer is not None and (shard := writer.publish(self._store.path)) is not None:
            self._store._adopt(shard)

    def _is_due(self) -> bool:
        now = time.monotonic()
        patience = max(self._shard_seconds, _LOSS * (now - self._start))
        written = self._writer.size if self._writer is not None else 0
        return written >= self._shard_bytes or now - self._published >= patience


def _age(shard: Shard) -> float | None:
    """Return the time at which a shard was written; None if another process removed it."""
    try:
        return shard.path.stat().st_mtime
    except OSError:
        return None


def _cast(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``rows`` on the CPU, contiguous, in ``dtype``."""
    cast = rows.to("cpu", dtype).contiguous()
    if rows.dtype != dtype and not torch.isfinite(cast).all():
        finite = torch.isfinite(rows)
        if (finite & ~torch.isfinite(cast).to(rows.device)).any():
            raise OverflowInCache(
                f"a value is too large for a cache of {str(dtype).removeprefix('torch.')}",
                got=float(rows[finite].abs().max()),
                allowed=f"at most {torch.finfo(dtype).max:g}",
                hint="cache in float32",
            )
    return cast
