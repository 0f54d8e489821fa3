"""Measurements: runs competitors as processes of their own, and evaluates their figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from peers.task import Task

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: From its start to its end.
        peak: The most memory that was resident, in bytes.
        epochs: Seconds of each epoch.
        visits: Images shown in an epoch.
        more: Whatever else it reported.
        first_step: Seconds from its start to the end of the first optimizer step.
    """

    seconds: float
    peak: int
    epochs: tuple[float, ...] = ()
    visits: int = 0
    more: dict[str, Any] | None = None
    first_step: float = 0.0


@dataclass(frozen=True)
class Process:
    """A process that ended well.

    Attributes:
        seconds: From its start to its end.
        cpu: The seconds that its cores worked for it.
        peak: The most memory that was resident, in bytes.
        printed: What it wrote to stdout.
    """

    seconds: float
    cpu: float
    peak: int
    printed: str


def process(command: Sequence[str], threads: int = 2, **variables: str) -> Process:
    """Run a command to its end, with some more environment variables.

    Raises:
        SystemExit: It failed; the message shows what it wrote to stderr.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(HERE),
        **variables,
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=log, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        log.seek(0)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with {child.returncode}:\n{log.read()}")
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        cpu = usage.ru_utime + usage.ru_stime
        return Process(seconds, cpu, usage.ru_maxrss * unit, out.read())


def compete(name: str, task: Task) -> Run:
    """Run the competitor ``peers.<name>`` on ``task``."""
    return module(name, [json.dumps(asdict(task))], task.threads)


def module(name: str, arguments: Sequence[str], threads: int) -> Run:
    """Run ``peers.<name>``, which prints what :func:`peers.task.report` prints."""
    command = [sys.executable, "-m", f"peers.{name}", *arguments]
    done = process(command, threads)
    more = json.loads(done.printed.splitlines()[-1])
    return Run(done.seconds, done.peak, tuple(more.pop("epochs")), more.pop("visits"), more)


def scaled(run: Run, epochs: int, visits: int) -> float:
    """Return the seconds that a whole run takes, from a run of fewer epochs or image visits.

    The time outside of epochs (imports, building the model) counts once. An image visit counts as
    long as in the fastest epoch measured. This is in the competitor's favour, whose first epoch
    warms up.

    Args:
        run: What was measured.
        epochs: Epochs of the whole run.
        visits: Image visits in each of them.
    """
    once = run.seconds - sum(run.epochs)
    return once + min(run.epochs) / run.visits * visits * epochs


def steady(epochs: Sequence[float]) -> float:
    """Return the median seconds of an epoch, without the first epoch, which warms up."""
    return median(epochs[1:] or epochs)


def cost_per_image(base: tuple[int, float], run: tuple[int, float]) -> float:
    """Return the seconds that each further image costs, from two runs (images, seconds).

    ``base`` is a run of very few images, which shows the cost that a run of any size has.
    """
    return (run[1] - base[1]) / (run[0] - base[0])
