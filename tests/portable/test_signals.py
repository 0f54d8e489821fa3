from __future__ import annotations

import os
import signal
import threading

import pytest

from siamkit.portable.signals import Terminated, interrupted, sigterm_raises


def test_sigterm_is_an_exception_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_raises():
        assert signal.getsignal(signal.SIGTERM) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_changes_no_handler() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with sigterm_raises():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_error_says_what_ended_the_command() -> None:
    error = interrupted(KeyboardInterrupt(), " after 3 images", "go on")
    assert (error.what, error.exit_code, error.hint) == ("interrupted after 3 images", 130, "go on")
    error = interrupted(Terminated())
    assert (error.what, error.exit_code, error.hint) == ("stopped by SIGTERM", 143, None)
