"""Cores: how many of the machine's cores this process may use, and how many are free.

A library that starts a thread for each core of the machine is slow in a container with fewer, and
on a machine that computes something else: each operation waits for its last thread.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .control_groups import groups_of

THREADS = "OMP_NUM_THREADS"
"""The environment variable with the number of threads that the user asks for."""

_STAT = Path("/proc/stat")
_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_TICKS = 100  # per second, in that file


def allowed_cores() -> int:
    """Return the number of cores that the process may use, at least 1.

    Its affinity bounds them, and so do the quotas of its control groups, rounded.
    """
    quotas = [_quota(folder, version) for folder, version in groups_of("cpu")]
    return max(1, round(min([len(affinity()), *quotas])))


def free_cores(others: float) -> int:
    """Return the number of cores that the process may use and that others leave, at least 1.

    Args:
        others: How many cores other processes use, on average.
    """
    return max(1, min(allowed_cores(), round(len(affinity()) - others)))


def asked_threads() -> int | None:
    """Return the number of threads that the environment asks for, or None."""
    text = os.environ.get(THREADS, "").partition(",")[0]  # the others are for nested regions
    return int(text) if text.isdecimal() and int(text) else None


def threads_of_libraries() -> int:
    """Return the threads that a library should start; 0: as many as it starts by itself.

    By itself, it starts one for each core of the machine, also where the process may use fewer.
    """
    return asked_threads() or (allowed_cores() if allowed_cores() < (os.cpu_count() or 1) else 0)


@dataclass(frozen=True)
class Usage:
    """How long the cores that this process may use have computed, up to now.

    Attributes:
        at: The time, in seconds.
        everybody: The seconds that all processes computed that do not give way to this one, since
            the start of the system.
        own: The seconds that this process computed.
    """

    at: float
    everybody: float
    own: float

    @classmethod
    def now(cls) -> Usage | None:
        """Return the usage up to now; None if the system does not tell."""
        wanted = {f"cpu{core}" for core in affinity()}
        try:
            rows = [line.split() for line in _STAT.read_text().splitlines()]
            # user, system, interrupts and what the host took
            places = (1, 2, 3, 6, 7, 8) if _shared_by_session() else (1, 3, 6, 7, 8)
            ticks = sum(int(row[place]) for row in rows if row[0] in wanted for place in places)
        except (OSError, ValueError, IndexError):  # not Linux
            return None
        return cls(time.monotonic(), ticks / _TICKS, time.process_time())

    def others_since(self, before: Usage) -> float:
        """Return how many cores other processes used on average since an earlier time."""
        passed = self.at - before.at
        if passed <= 0:
            return 0.0
        computed = (self.everybody - before.everybody) - (self.own - before.own)
        return max(0.0, computed / passed)


def _shared_by_session() -> bool:
    """Return whether each session gets an equal share of the cores.

    Then processes with a nice value give way only to those of their own session; see sched(7).
    """
    try:
        return _AUTOGROUP.read_text().strip() == "1"
    except OSError:
        return False


def affinity() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        return frozenset(range(os.cpu_count() or 1))


def _quota(folder: Path, version: int) -> float:
    """Return the cores that a group may use; infinite without a quota."""
    try:
        if version == 1:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int((folder / name).read_text()) for name in names)
        else:
            quota, period = map(int, (folder / "cpu.max").read_text().split())
    except (OSError, ValueError):  # no quota
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")
