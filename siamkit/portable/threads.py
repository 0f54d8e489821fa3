"""Threads: apply a function to many items in threads, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
"""Enough to hide the latency of file systems, also of those on a network."""

_AHEAD = 16  # items per thread


def in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int = THREADS
) -> Iterator[R]:
    """Yield the function's result for each item, in order.

    Unlike ``ThreadPoolExecutor.map``, this function submits only a few items ahead, and submits no
    more when the caller stops iterating.

    Args:
        function: The function, which is called in other threads. The generator raises its
            exceptions.
        items: The items.
        threads: The number of threads.
    """
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= _AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
