"""Together: a change of the process's state that several threads can need at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class Together:
    """A context manager that makes a change while any thread is in its block.

    The first thread that comes in makes the change, and the last one that goes out undoes it. If
    each thread made and undid the change on its own, one thread could take the other's change for
    the state to go back to, and the change would stay.

    Args:
        change: Returns the context manager that makes the change and undoes it.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change, self._lock = change, threading.Lock()
        self._inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the change within the block."""
        with self._lock:
            if not self._inside:
                self._made = self._change()
                self._made.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._made.__exit__(None, None, None)
