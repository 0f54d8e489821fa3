"""Who uses a store. The system lets go of every lock when its process ends, however it ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from siamkit.engine.cache.layout import FILL_LOCK, HINT, USERS
from siamkit.files import full_disk_is_ours

_PATIENCE = 0.2  # seconds


@contextmanager
def root_locked(root: Path) -> Iterator[None]:
    """Keep all others from opening or deleting a store for a moment.

    Raises:
        ResourceError: The folder cannot be written.
    """
    lock = FileLock(root / ".lock")
    with full_disk_is_ours(root, HINT):
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def fill_locked(
    store: Path, on_wait: Callable[[], None] | None, check: Callable[[], None]
) -> Iterator[None]:
    """Hold the right to add rows.

    Args:
        store: The store's folder.
        on_wait: Called if another process has it.
        check: Called again and again while waiting; may raise to stop.
    """
    lock = FileLock(store / FILL_LOCK)
    try:
        with full_disk_is_ours(store, HINT):
            lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None:
            on_wait()
        while not lock.is_locked:
            check()
            with suppress(Timeout):
                lock.acquire(timeout=_PATIENCE)
    try:
        yield
    finally:
        lock.release()


class Use:
    """The mark that this process has a store open. Make it while the root is locked."""

    def __init__(self, store: Path) -> None:
        folder = store / USERS
        # Whatever thread lets the store go, or none: the lock goes with this object.
        self._lock = FileLock(folder / f"{uuid.uuid4().hex}.lock", thread_local=False)
        with full_disk_is_ours(store, HINT):
            folder.mkdir(exist_ok=True)
            self._lock.acquire(timeout=0)

    def end(self) -> None:
        """Take the mark away; a second call does nothing."""
        if self._lock.is_locked:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)


def in_use(store: Path) -> bool:
    """Tell whether a live process has the store open. Call it while the root is locked."""
    for mark in (store / USERS).glob("*.lock"):
        lock = FileLock(mark)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        mark.unlink(missing_ok=True)
    return False
