"""Signals: SIGINT and SIGTERM let a run finish its step and save; a second SIGINT stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """The request of a signal to stop the run.

    Attributes:
        exit_code: The exit code that belongs to the signal; None until a signal arrives.
        name: The signal's name.
    """

    exit_code: int | None = None
    name: str = ""


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM within the block into a stop request, which is yielded.

    A second SIGINT raises KeyboardInterrupt. Outside the main thread, signals are left alone.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if request.exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.exit_code = _CODES[signal.Signals(number)]
        request.name = signal.Signals(number).name

    previous = {number: signal.signal(number, on_signal) for number in _CODES}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
