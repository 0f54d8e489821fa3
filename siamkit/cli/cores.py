"""The cores that a command computes on: as many threads as there are free cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from siamkit.cli import output
from siamkit.portable.cores import THREADS, Usage, allowed_cores, asked_threads, free_cores
from siamkit.words import plural


def use(threads: int | None) -> int | None:
    """Let the command compute with a number of threads; None: as many as there are free cores.

    The libraries read the number when they are imported, and the processes that the command starts
    read it too.
    """
    if threads is not None:
        os.environ[THREADS] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return threads


@contextmanager
def restored_threads() -> Iterator[None]:
    """Undo :func:`use` when the block ends."""
    variable = os.environ.get(THREADS)
    torch = sys.modules.get("torch")
    count = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        os.environ.pop(THREADS, None)
        if variable is not None:
            os.environ[THREADS] = variable
        if torch and torch.get_num_threads() != count:
            torch.set_num_threads(count)


def set_threads(before: Usage | None, *, quiet: bool) -> None:
    """Set the number of threads of torch and NumPy, and say if it is not that of the cores.

    Args:
        before: The usage of the cores when the command started.
        quiet: Whether to say nothing.
    """
    import torch
    from threadpoolctl import threadpool_limits

    asked, now = asked_threads(), Usage.now()
    others = now.others_since(before) if now and before else 0.0
    # Without asking, torch may use fewer threads than the environment says.
    count = min(torch.get_num_threads(), free_cores(others)) if asked is None else asked
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")  # NumPy's products
    text = notice(asked, count, allowed_cores(), others)
    if text and not quiet:
        output.notice(text)


def notice(asked: int | None, threads: int, most: int, others: float) -> str | None:
    """Return a notice about a number of threads that is not that of the cores; else None.

    Args:
        asked: The number of threads that the user asked for, or None.
        threads: The number of threads.
        most: The number of cores that the process may use.
        others: How many cores other programs use.
    """
    if asked is not None:
        if asked <= most:
            return None
        return (
            f"{plural(asked, 'thread')} on {plural(most, 'core')}: each operation waits for its "
            "last thread, so fewer threads would be faster"
        )
    if threads < most and round(others):
        return (
            f"other programs use about {plural(round(others), 'core')}, so this command computes "
            f"with {plural(threads, 'thread')}; --threads N sets another number"
        )
    return None
