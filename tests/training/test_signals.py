"""Signals while a run trains: the first one asks, the second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from siamkit.training.signals import listening


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with listening() as stop:
        assert (stop.exit_code, stop.name) == (None, "")
        os.kill(os.getpid(), number)
        assert (stop.exit_code, stop.name) == (code, number.name)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_sigint_after_another_signal_stops_at_once(first: signal.Signals) -> None:
    with listening() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == first.name


def test_a_second_sigterm_only_asks_again() -> None:
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.exit_code, stop.name) == (143, "SIGTERM")


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with listening() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.exit_code))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
