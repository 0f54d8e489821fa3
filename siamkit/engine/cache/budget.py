"""The cache's budget: lists stores (folders of cached rows), and evicts the least recently used.

A store is always evicted as a whole.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamkit.engine.cache.layout import (
    FILL_LOCK,
    GRAPHS,
    MEASUREMENTS,
    STORE_FILE,
    USERS,
    ShardHeader,
    StoreSpec,
    disk_hint,
    is_our_name,
    is_shard_name,
    is_store,
)
from siamkit.engine.cache.locks import in_use, root_locked
from siamkit.errors import ResourceError
from siamkit.files import sweep, writing
from siamkit.words import data_size

_DAY = 86_400.0


@dataclass(frozen=True)
class StoreInfo:
    """The description, size and age of a store (a folder of cached rows), read without opening it.

    Attributes:
        path: The store's folder.
        bytes: The size of the store's files.
        rows: The number of rows in the store; rows of damaged shards do not count.
        last_used: The time at which the store was last opened or closed, in seconds since 1970.
        in_use: Whether a running process has the store open.
        description: The facts that determine the rows; empty if they cannot be read.
        dtype: The type of the rows: ``F32``, ``F16`` or ``BF16``; empty if it cannot be read.
    """

    path: Path
    bytes: int
    rows: int
    last_used: float
    in_use: bool
    description: Mapping[str, Any]
    dtype: str

    @property
    def digest(self) -> str:
        """The store's name."""
        return self.path.name


def list_stores(root: Path) -> list[StoreInfo]:
    """Return all stores, the most recently used first.

    Raises:
        ResourceError: The folder is not writable. (Finding out whether stores are in use needs
            locks in it.)
    """
    if not _stores(root):
        return []
    with root_locked(root):
        return _list(root)


def make_room(root: Path, budget_bytes: int, needed_bytes: int = 0) -> list[StoreInfo]:
    """Evict stores until ``needed_bytes`` more fit the budget and the disk; return the evicted.

    The least recently used stores go first. Stores that a running process has open stay, so the
    space may still not suffice; check it with :func:`require_room`.
    """
    return _evict(
        root,
        lambda stores: choose(
            stores, min(budget_bytes, _total(stores) + free_bytes(root)) - needed_bytes
        ),
    )


def prune(
    root: Path, budget_bytes: int | None = None, older_than_days: float | None = None
) -> list[StoreInfo]:
    """Evict unused stores, then others until the rest fits a budget; return the evicted stores.

    Stores that a running process has open stay.

    Args:
        root: The folder of all stores.
        budget_bytes: The most bytes that all stores may take; None for no bound.
        older_than_days: Evict all stores that were not used for this many days; None to keep them.
    """
    oldest = None if older_than_days is None else time.time() - older_than_days * _DAY

    def chosen(stores: Sequence[StoreInfo]) -> list[StoreInfo]:
        old = [] if oldest is None else [s for s in stores if s.last_used < oldest]
        evicted = [s for s in old if not s.in_use]
        rest = [s for s in stores if s not in evicted]
        return evicted + ([] if budget_bytes is None else choose(rest, budget_bytes))

    return _evict(root, chosen)


def clear(root: Path) -> list[StoreInfo]:
    """Delete the stores that no running process has open, and return the deleted stores.

    The measurements of kernels and the int8 graphs beside them are deleted too.
    """
    for folder in (MEASUREMENTS, GRAPHS):
        shutil.rmtree(root / folder, ignore_errors=True)
    return _evict(root, lambda stores: [s for s in stores if not s.in_use])


def choose(stores: Iterable[StoreInfo], limit: int) -> list[StoreInfo]:
    """Return the stores to evict so that the rest has at most ``limit`` bytes."""
    stores = sorted(stores, key=lambda store: store.last_used)
    left, evicted = _total(stores), []
    for store in stores:
        if left <= limit:
            break
        if not store.in_use:
            evicted.append(store)
            left -= store.bytes
    return evicted


def available_bytes(root: Path) -> int:
    """Return the bytes that a store could get: the disk's free space, and all evictable stores.

    0 is returned if the folder is not writable.
    """
    if not os.access(_existing(root), os.W_OK | os.X_OK):
        return 0
    evictable = sum(store.bytes for store in list_stores(root) if not store.in_use)
    return free_bytes(root) + evictable


def free_bytes(root: Path) -> int:
    """Return the free space of the disk that ``root`` is or would be on."""
    return shutil.disk_usage(_existing(root)).free


def _existing(root: Path) -> Path:
    place = root.absolute()
    while not place.exists():
        place = place.parent
    return place


def require_room(root: Path, needed_bytes: int) -> None:
    """Check that the disk has enough free space.

    Raises:
        ResourceError: The disk has too little free space.
    """
    free = free_bytes(root)
    if needed_bytes > free:
        raise ResourceError(
            f"the feature cache needs {data_size(needed_bytes)} more, and the disk has "
            f"{data_size(free)} free",
            where=str(root),
            hint=disk_hint(),
        )


def _total(stores: Iterable[StoreInfo]) -> int:
    return sum(store.bytes for store in stores)


def _stores(root: Path) -> list[Path]:
    with writing(root, disk_hint()):
        return sorted(path for path in root.iterdir() if is_store(path)) if root.is_dir() else []


def _list(root: Path) -> list[StoreInfo]:
    infos = [_info(path) for path in _stores(root)]
    return sorted(infos, key=lambda info: info.last_used, reverse=True)


def _info(path: Path) -> StoreInfo:
    size = rows = 0
    for file in path.iterdir():
        with suppress(OSError, ValueError):  # another process may drop the shard meanwhile
            size += file.stat().st_size if is_our_name(file.name) else 0
            rows += ShardHeader.read(file).count if is_shard_name(file.name) else 0
    mark = path / STORE_FILE
    last_used = (mark if mark.exists() else path).stat().st_mtime
    spec = StoreSpec.read(path) or StoreSpec({}, "", ())
    return StoreInfo(path, size, rows, last_used, in_use(path), spec.description, spec.dtype)


def _evict(root: Path, chosen: Callable[[Sequence[StoreInfo]], list[StoreInfo]]) -> list[StoreInfo]:
    if not _stores(root):
        return []
    with root_locked(root):  # so that no other process opens one of them now
        evicted = chosen(_list(root))
        for store in evicted:
            with writing(store.path, disk_hint()):
                _delete(store.path)
    return evicted


def _delete(store: Path) -> None:
    """Delete siamkit's files, and the folder if it is then empty.

    The spec is deleted last, so that a kill leaves a smaller, valid store.
    """
    sweep(store)
    last = (STORE_FILE, FILL_LOCK)
    files = [file for file in store.iterdir() if is_our_name(file.name)]
    for file in sorted(files, key=lambda file: file.name in last):
        file.unlink(missing_ok=True)
    for folder in (store / USERS, store):
        with suppress(OSError):
            folder.rmdir()
