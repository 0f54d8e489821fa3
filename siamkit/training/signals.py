"""SIGINT and SIGTERM: finish the step, save, then stop; a second SIGINT stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Whether a signal asked the run to stop; ``exit_code`` is None until one does."""

    exit_code: int | None = None
    name: str = ""


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; outside the main thread, do nothing."""
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
