"""Processes that train some of the runs of a comparison, beside the one that was asked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.work import Work, work
from siamkit.errors import SiamkitError
from siamkit.portable.cores import THREADS

_PATIENCE = 60.0  # seconds for a process that was told to end: it saves a checkpoint first


@contextmanager
def helping(count: int, job: Work) -> Iterator[None]:
    """Let processes take part in the work of a comparison, for as long as the block runs.

    If one of them ends early, the others train its runs. At the end of the block the work is done,
    so they end by themselves; if the block raises, they are told to end.

    Args:
        count: The number of processes.
        job: The work. Its config names components that are installed.
    """
    content = pickle.dumps(job)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(_started(content, job.base.train.threads))
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(content: bytes, threads: int | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if threads is not None:
        environment[THREADS] = str(threads)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    with process.stdin as stream:
        stream.write(content)
    return process


def main() -> int:
    """Do the work that is described on stdin; return the exit code."""
    from siamkit.api.entries import registries

    job: Work = pickle.load(sys.stdin.buffer)
    try:
        work(job, registries(), ComparisonDir(job.path))
    except SiamkitError as error:  # the first process meets it too, or does the work alone
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
