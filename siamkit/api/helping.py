"""Processes that train some of the runs of a comparison, beside the one that was asked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from siamkit import plugins, spelling
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.work import Work, work
from siamkit.errors import SiamkitError
from siamkit.plugins import Selection
from siamkit.portable.cores import THREADS
from siamkit.spelling import FlagOf
from siamkit.words import plural

_PATIENCE = 60.0  # seconds in which a process may save its checkpoint and end
_COMMAND = ("-P", "-m", __name__)


@dataclass(frozen=True)
class _Order:
    """The message to a new process: its work, and the settings that it shares with its parent.

    Attributes:
        parent: The process that started it, and waits for it.
        job: The work.
        selection: The plugins that the command line chose; None: those of the environment.
        flag_of: How messages spell arguments; None for Python's spelling.
    """

    parent: int
    job: Work
    selection: Selection | None
    flag_of: FlagOf | None


@contextmanager
def helping(count: int, job: Work) -> Iterator[list[str]]:
    """Let processes take part in the work of a comparison, for as long as the block runs.

    If one of them ends early, the others train its runs. The block does not end before the work is
    done, and then the processes end by themselves. If it raises an error, they are stopped.

    Args:
        count: The number of processes.
        job: The work. Its config names components that are installed.

    Yields:
        A list that is filled at the end: a notice for each process that failed.
    """
    order = _Order(os.getpid(), job, plugins.selected(), spelling.in_use())
    content = pickle.dumps(order)
    processes: list[subprocess.Popen[bytes]] = []
    notices: list[str] = []
    with tempfile.TemporaryFile() as said:
        try:
            for _ in range(count):
                processes.append(_started(said, job.base.train.threads))
                _tell(processes[-1], content)
            yield notices
        except BaseException:
            for process in processes:
                process.terminate()
            raise
        finally:
            for process in processes:
                _wait(process)
        failed = sum(process.returncode != 0 for process in processes)
        if failed:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it was killed")
            others = plural(failed, "other process", "other processes")
            notices.append(f"{others} failed, and the rest did the work: {last.strip()}")


def _started(said: IO[bytes], threads: int | None) -> subprocess.Popen[bytes]:
    # Modules are looked up as in this process, and not in the folder that the user stands in.
    places = [place or str(Path.cwd()) for place in sys.path if isinstance(place, str)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    if threads is not None:
        environment[THREADS] = str(threads)
    return subprocess.Popen(
        [sys.executable, *_COMMAND], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
    )  # fmt: skip


def _tell(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stream:  # it is gone already
        stream.write(content)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Do the work that is described on stdin; return the exit code."""
    from siamkit.api.entries import registries

    # A pickle can run code, but only the process that started this one can write to the pipe.
    order: _Order = pickle.load(sys.stdin.buffer)
    if order.selection is not None:
        plugins.select(order.selection)

    def end_if_alone(_: object) -> None:
        if os.getppid() != order.parent:  # it was killed, and nobody waits for the result
            raise SystemExit(1)

    spelled = nullcontext() if order.flag_of is None else spelling.command_line(order.flag_of)
    place = ComparisonDir(order.job.path)
    try:
        with spelled:
            work(order.job, registries(), place, end_if_alone, [end_if_alone])
    except SiamkitError as error:  # the first process meets it too, or does the work alone
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
