"""The progress of long tasks on stderr: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import quantiles
from types import TracebackType
from typing import Self, cast

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn

from siamkit.report import units
from siamkit.words import plural

_FIRST_LINE = 3.0  # seconds: shorter tasks need no line
_PARTS = 40


class Pace:
    """An estimate of the time that work takes, from the quartiles of its latest 40 units.

    So a few units that took long because of other work on the machine do not count. When the
    machine becomes slower or faster, the estimate follows.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_PARTS)

    def add(self, seconds: float) -> None:
        """Add the seconds that a unit of the work took."""
        self._seconds.append(seconds)

    def ahead(self, count: int) -> tuple[float, float]:
        """Return a low and a high estimate of the seconds that ``count`` more units take.

        The estimates are ``count`` times the lower and the upper quartile of the latest units'
        times. Before the first unit, both are 0.
        """
        if len(self._seconds) < 2:
            return (count * sum(self._seconds),) * 2
        low, _, high = quantiles(self._seconds, n=4, method="inclusive")
        return count * low, count * high

    def __len__(self) -> int:
        return len(self._seconds)


class TransientBar:
    """A progress bar that leaves nothing behind on the terminal.

    Args:
        console: The console to draw on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: rich.progress.Progress | None = None
        self._task = TaskID(0)

    def show(self, what: str, done: int, total: int, state: str) -> None:
        """Draw the bar; the first call adds it to the terminal."""
        if self._bar is None:
            self._bar = rich.progress.Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
                TextColumn("{task.fields[state]}", markup=False),
                console=self._console,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(what, completed=done, total=total, state=state)
            self._bar.start()
        self._bar.update(self._task, description=what, completed=done, total=total, state=state)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ImageProgress:
    """Shows the number of finished images. Call the object with this number and the total.

    Use it as a context manager, which removes the bar at the end, also after an error.

    Args:
        console: The console to print to; one of :func:`siamkit.report.terminal.make_console`.
        what: The task, such as ``embed``.
        interval: Seconds between two lines, if there is no bar.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        console: Console,
        what: str,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._what = console, what
        self._interval, self._clock = interval, clock
        self._began: tuple[float, int] | None = None
        self._before_first = 0
        self._next_line = 0.0
        self._bar = TransientBar(console)
        self._pace, self._latest = Pace(), cast("tuple[float, int] | None", None)

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are done."""
        now = self._clock()
        if self._began is None:
            self._began, self._before_first = (now, done), done
            self._next_line = now + min(_FIRST_LINE, self._interval)
            if done:
                self._console.print(
                    f"{self._what}: continuing after {done} of {plural(total, 'image')}"
                )
        elif self._began[1] == self._before_first and done > self._before_first:
            # The time of the first images includes choosing a kernel.
            self._began, self._latest = (now, done), None
        since, before = self._began
        state = ""
        if self._latest is not None and done > self._latest[1]:
            self._pace.add((now - self._latest[0]) / (done - self._latest[1]))
        self._latest = (now, done)
        if done > before and now > since:
            state = units.per_second((done - before) / (now - since))
            state += f"  {units.left(*self._pace.ahead(total - done))}" if len(self._pace) else ""
        if self._console.is_terminal:
            self._bar.show(self._what, done, total, state)
        elif now >= self._next_line and done < total:
            self._next_line = now + self._interval
            self._console.print(
                f"{self._what}: {done} of {plural(total, 'image')}  {state}".rstrip()
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
