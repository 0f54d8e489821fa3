"""Commands in processes of their own, which a SIGKILL can end at any chosen moment.

The processes are forked from one that has imported siamkit, so that they start at once. A trap
waits for a chosen call, such as the second save of a checkpoint, and kills the process during the
call: just before one of the call's file operations, or after some time.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIVITIES: Mapping[str, Sequence[str]] = {
    "training": ["siamkit.training.step:Stepper.__call__"],
    "saving": ["siamkit.runs.checkpoint:publish"],
    "filling the cache": ["siamkit.engine.cache.store:Fill.add"],
    "evaluating": ["siamkit.training.scoring:Scorer.trained"],
    "embedding the held-out images": ["siamkit.training.fit:embed_held_out"],
    "calibrating": ["siamkit.training.finish:calibrate_run"],
    "writing the report": ["siamkit.api.reports:write_report"],
}
"""The functions that do each activity, by the harness's name for the activity."""

COMMAND = "running"
"""The activity of a trap for a whole command."""

_OPERATIONS = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Trap:
    """A moment at which a process is killed.

    Attributes:
        activity: The activity during which to kill: one of :data:`ACTIVITIES`, or :data:`COMMAND`.
        call: The number of the activity's call, from 0.
        operation: The number of the call's file operation before which to kill, from 0; None to
            kill after ``seconds``.
        seconds: The time after the beginning of the call; ignored if ``operation`` is given.
    """

    activity: str
    call: int
    operation: int | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        where = (
            f"{1000 * self.seconds:.0f} ms after its start"
            if self.operation is None
            else f"at its file operation {self.operation + 1}"
        )
        return f"{self.activity}, call {self.call + 1}, {where}"


@dataclass(frozen=True)
class Ended:
    """A process that ended: its exit code (negative for a signal), its stdout and its stderr."""

    code: int
    out: str
    err: str

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended the process."""
        return self.code == -signal.SIGKILL

    @property
    def json(self) -> Any:
        """The JSON value that the process printed to stdout."""
        return json.loads(self.out)

    @property
    def problem(self) -> str | None:
        """The exit code and stderr of a command that crashed or printed a traceback; else None."""
        if "Traceback" in self.err or "this is a bug" in self.err or self.code in (1, -11, -7):
            return f"exit {self.code}: {self.err.strip()[-500:]}"
        return None


class Programs:
    """Runs commands, each in a process of its own, whose output goes to files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        modules = {spot.partition(":")[0] for spots in ACTIVITIES.values() for spot in spots}
        self._context.set_forkserver_preload(sorted({"siamkit.cli.app", "processes", *modules}))
        self._number = 0

    def run(
        self,
        args: Sequence[object],
        cache: Path,
        *,
        trap: Trap | None = None,
        record: Path | None = None,
        timeout: float = 300,
        before: Callable[[], None] | None = None,
        main: Callable[[list[str]], int] | None = None,
    ) -> Ended:
        """Run ``siamkit ARGS...`` until it ends or is killed.

        Args:
            args: The arguments.
            cache: The folder of the feature cache.
            trap: The moment to kill the process at; None: it is not killed.
            record: A file to write each activity's calls to: their seconds and file operations.
            timeout: Seconds after which the process counts as hanging.
            before: Called first in the process; must be a function at the top level of a module.
            main: Called with ``args`` instead of the command line; must be such a function too.

        Raises:
            TimeoutError: The process hangs, and has been killed.
        """
        self._number += 1
        base = self.folder / f"process-{self._number}"
        given = [str(arg) for arg in args]
        child = self._context.Process(
            target=_child, args=(given, str(cache), str(base), trap, record, before, main)
        )
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
            raise TimeoutError(f"siamkit {' '.join(given)} did not end in {timeout:.0f} s")
        texts = []
        for suffix in (".out", ".err"):
            file = base.with_name(base.name + suffix)
            texts.append(file.read_text(errors="replace"))
            file.unlink()
        assert child.exitcode is not None
        return Ended(child.exitcode, *texts)


def _child(
    args: list[str],
    cache: str,
    base: str,
    trap: Trap | None,
    record: Path | None,
    before: Callable[[], None] | None,
    main: Callable[[list[str]], int] | None,
) -> None:
    for number, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(base + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.environ.update(SIAMKIT_CACHE_DIR=cache, HF_HUB_OFFLINE="1", NO_COLOR="1")
    import torch

    torch.set_num_threads(1)
    if before is not None:
        before()
    from siamkit.cli.app import main as command

    watch = _Watch(trap)
    if trap is not None and trap.activity == COMMAND:
        threading.Thread(target=_kill_after, args=(trap.seconds,), daemon=True).start()
    code = (main or command)(args)
    if record is not None:
        record.write_text(json.dumps(watch.calls))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


class _Watch:
    """Counts each activity's calls and their file operations, and kills the process at the trap."""

    def __init__(self, trap: Trap | None) -> None:
        self.trap = trap
        self.calls: dict[str, list[tuple[float, int]]] = {}
        self._running: list[str] = []
        self._operations = 0
        sys.addaudithook(self._hook)
        for activity, spots in ACTIVITIES.items():
            for spot in spots:
                self._wrap(activity, spot)

    def _wrap(self, activity: str, spot: str) -> None:
        name, _, path = spot.partition(":")
        *outer, last = path.split(".")
        owner: Any = importlib.import_module(name)
        for part in outer:
            owner = getattr(owner, part)
        inner = getattr(owner, last)
        done = self.calls.setdefault(activity, [])

        def call(*given: Any, **named: Any) -> Any:
            started, before = time.perf_counter(), self._operations
            self._running.append(activity)
            trap, number = self.trap, len(done)
            armed = trap is not None and (trap.activity, trap.call) == (activity, number)
            if armed:
                assert trap is not None
                self._operations, before = 0, 0
                if trap.operation is None:
                    threading.Thread(target=_kill_after, args=(trap.seconds,), daemon=True).start()
            try:
                return inner(*given, **named)
            finally:
                self._running.pop()
                done.append((time.perf_counter() - started, self._operations - before))

        setattr(owner, last, call)

    def _hook(self, event: str, args: Any) -> None:
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not self._running or not (writes or event in _OPERATIONS):
            return
        trap = self.trap
        if (
            trap is not None
            and trap.activity in self._running
            and trap.operation == self._operations
            and len(self.calls[trap.activity]) == trap.call
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        self._operations += 1


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


# --- small file systems --------------------------------------------------------------------------


def can_mount() -> bool:
    """Return whether this process may mount a file system in a namespace of its own."""
    mount = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0
