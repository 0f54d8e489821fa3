"""SIGTERM as an exception, so that a command outside of the training loop ends with a message."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Interrupted

EXIT_CODE = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. As a KeyboardInterrupt, it passes the code that catches plugins' errors."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into :class:`Terminated` within the block, in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def interrupted(error: KeyboardInterrupt, how: str = "", hint: str | None = None) -> Interrupted:
    """Return the error that a command ends with after Ctrl-C or SIGTERM.

    Args:
        error: The exception.
        how: A text about the progress so far, for the message.
        hint: The next step, for the message.
    """
    by_sigterm = isinstance(error, Terminated)
    what = "stopped by SIGTERM" if by_sigterm else "interrupted"
    return Interrupted(f"{what}{how}", exit_code=EXIT_CODE if by_sigterm else 130, hint=hint)
