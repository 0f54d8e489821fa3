"""Locks of stores. The system releases every lock when its process ends, even by a crash."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from siamkit.engine.cache.layout import FILL_LOCK, USERS, disk_hint
from siamkit.files import writing

_PATIENCE = 0.2  # seconds


@contextmanager
def root_locked(root: Path) -> Iterator[None]:
    """Prevent other processes from opening or deleting a store within the block.

    Raises:
        ResourceError: The folder cannot be written.
    """
    lock = FileLock(root / ".lock")
    with writing(root, disk_hint()):
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
    """Within the block, let only this process add rows to a store.

    Args:
        store: The store's folder.
        on_wait: Called if another process holds the lock.
        check: Called repeatedly while waiting; may raise to stop.
    """
    lock = FileLock(store / FILL_LOCK)
    try:
        with writing(store, disk_hint()):
            lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None:
            on_wait()
        while not lock.is_locked:
            check()
            with writing(store, disk_hint()), suppress(Timeout):
                lock.acquire(timeout=_PATIENCE)
    try:
        yield
    finally:
        lock.release()


class Use:
    """A mark that this process has a store (a folder of cached rows) open.

    Create it only within :func:`root_locked`.
    """

    def __init__(self, store: Path) -> None:
        folder = store / USERS
        # Not local to a thread: any thread, or the object's deletion, may release the lock.
        self._lock = FileLock(folder / f"{uuid.uuid4().hex}.lock", thread_local=False)
        with writing(store, disk_hint()):
            folder.mkdir(exist_ok=True)
            self._lock.acquire(timeout=0)

    def end(self) -> None:
        """Remove the mark. A second call does nothing."""
        if self._lock.is_locked:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)


def in_use(store: Path) -> bool:
    """Return whether a running process has the store open. Lock the root before the call."""
    for mark in (store / USERS).glob("*.lock"):
        lock = FileLock(mark)
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):  # another user's lock may be held
            return True
        lock.release()
        mark.unlink(missing_ok=True)
    return False
