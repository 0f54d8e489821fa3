"""The progress of long tasks, with a clock that the tests set."""

from __future__ import annotations

import io
import re

from siamkit.report.progress import ImageProgress, Pace
from siamkit.report.terminal import make_console

from .conftest import Terminal


class Task:
    """A task whose progress is shown."""

    def __init__(self, stream: io.StringIO, interval: float = 10.0) -> None:
        self.stream, self.now = stream, 100.0
        self.show = ImageProgress(
            make_console(stream), "embed", interval=interval, clock=lambda: self.now
        )

    def at(self, second: float, done: int, total: int = 100) -> str:
        """Return what is printed when ``done`` images are done."""
        self.now = 100 + second
        before = len(self.stream.getvalue())
        self.show(done, total)
        return self.stream.getvalue()[before:]


def test_a_short_task_prints_nothing():
    task = Task(io.StringIO())
    assert [task.at(second, 10 * second) for second in (0, 1, 2)] == [""] * 3
    assert task.at(2.99, 99) == ""


def test_the_first_line_comes_after_three_seconds_and_then_one_each_interval():
    task = Task(io.StringIO())
    printed = {second: text for second in range(25) if (text := task.at(second, 4 * second))}
    assert list(printed) == [3, 13, 23]
    assert printed[3] == "embed: 12 of 100 images  4.0 img/s  about 22 s left\n"
    assert printed[13].startswith("embed: 52 of 100 images  4.0 img/s")


def test_a_shorter_interval_counts_for_the_first_line_too():
    task = Task(io.StringIO(), interval=1.0)
    task.at(0, 0)
    assert task.at(0.9, 1) == ""
    assert task.at(1.0, 2).startswith("embed: 2 of 100 images")


def test_the_end_needs_no_line():
    task = Task(io.StringIO())
    task.at(0, 0)
    assert task.at(5, 100) == ""


def test_the_rate_leaves_out_the_time_of_the_first_images():
    task = Task(io.StringIO(), interval=1.0)
    task.at(0, 0)
    assert task.at(50, 10) == "embed: 10 of 100 images\n"
    assert task.at(52, 20) == "embed: 20 of 100 images  5.0 img/s  about 16 s left\n"
    assert task.at(54, 30) == "embed: 30 of 100 images  5.0 img/s  about 14 s left\n"


def test_a_continued_task_says_where_and_counts_its_own_images_only():
    task = Task(io.StringIO(), interval=1.0)
    assert task.at(0, 40) == "embed: continuing after 40 of 100 images\n"
    assert task.at(50, 50) == "embed: 50 of 100 images\n"
    assert task.at(52, 60) == "embed: 60 of 100 images  5.0 img/s  about 8.0 s left\n"


def test_without_progress_there_is_no_rate():
    task = Task(io.StringIO(), interval=1.0)
    task.at(0, 0)
    assert task.at(5, 0) == "embed: 0 of 100 images\n"
    assert task.at(5, 10) == ""  # an interval has not passed
    assert task.at(6, 10) == "embed: 10 of 100 images\n"
    assert task.at(7, 10) == "embed: 10 of 100 images\n"


def test_a_terminal_has_a_bar_which_is_gone_at_the_end():
    task = Task(Terminal())
    with task.show:
        task.at(0, 0)
        task.at(1, 10)
        task.at(2, 20)
        assert task.show._bar._bar is not None
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", task.stream.getvalue())
    assert "embed" in text and "0/100" in text
    assert task.show._bar._bar is None


def test_the_pace_comes_from_the_quartiles_of_the_latest_40_units():
    pace = Pace()
    assert (pace.ahead(3), len(pace)) == ((0, 0), 0)
    pace.add(2.0)
    assert pace.ahead(3) == (6, 6)
    for seconds in (4.0, 6.0, 8.0, 100.0):
        pace.add(seconds)
    assert pace.ahead(2) == (8, 16)
    for _ in range(40):
        pace.add(1.0)
    assert (pace.ahead(2), len(pace)) == ((2, 2), 40)
