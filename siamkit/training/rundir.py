"""The run directory: its layout, its lock, and its event log."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.config import RunConfig, read_file
from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.training.files import full_disk_is_ours, write_atomic, write_json


class RunDir:
    """Paths of one run.

    ``config.yaml`` (resolved), ``events.jsonl``, ``metrics.json``, ``checkpoints/``, ``lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.events = path / "events.jsonl"
        self.metrics = path / "metrics.json"
        self.checkpoints = path / "checkpoints"
        self.lock = path / "lock"

    @classmethod
    def create(cls, config: RunConfig, now: datetime | None = None) -> RunDir:
        """Make the directory of a new run and write its config.

        Raises:
            ConfigError: The directory holds something already.
            ResourceError: It cannot be written.
        """
        path = config.run_dir or _free(
            Path("runs") / _default_name(config, now or datetime.now(UTC))
        )
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise ConfigError(
                "the run directory is not empty" if path.is_dir() else "is a file",
                where=str(path),
                hint=f"choose another --run-dir, or continue it with --resume {path}",
            )
        run = cls(path)
        with full_disk_is_ours(path):
            path.mkdir(parents=True, exist_ok=True)
        write_atomic(run.config, config.model_copy(update={"run_dir": None}).to_yaml())
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Return an existing run.

        Raises:
            CheckpointError: There is no run at ``path``.
        """
        run = cls(path)
        if not run.config.is_file():
            raise CheckpointError(
                "is not a run directory: it has no config.yaml",
                where=str(path),
                hint="'siamkit train' writes one and prints its path",
            )
        return run

    def read_config(self) -> dict[str, Any]:
        """Return the values of the run's config."""
        return read_file(self.config)

    def append_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Append one line to the event log."""
        line = json.dumps({"time": round(time.time(), 3), "event": name, **data}, default=str)
        with full_disk_is_ours(self.events), self.events.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_json(self.metrics, metrics)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            ResourceError: Another process holds it, or a dead one left its lock on another host.
        """
        mine = {"pid": os.getpid(), "host": socket.gethostname()}
        with full_disk_is_ours(self.lock):
            if not _try_lock(self.lock, mine):
                self._break_stale_lock(mine)
        try:
            yield
        finally:
            self.lock.unlink(missing_ok=True)

    def _break_stale_lock(self, mine: Mapping[str, Any]) -> None:
        try:
            owner = json.loads(self.lock.read_text(encoding="utf-8"))
            pid, host = int(owner["pid"]), str(owner["host"])
        except (OSError, ValueError, KeyError, TypeError):
            pid, host = 0, "?"
        if host == mine["host"] and not _alive(pid):
            self.lock.unlink(missing_ok=True)
            if _try_lock(self.lock, mine):
                return
        raise ResourceError(
            f"the run is in use by process {pid} on {host}",
            where=str(self.path),
            hint=f"wait for it to end, or remove {self.lock} if it is dead",
        )


def _try_lock(path: Path, owner: Mapping[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump(owner, file)
    return True


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free(path: Path) -> Path:
    """Return ``path``, or the first of ``path-2``, ``path-3``... that doesn't exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def _default_name(config: RunConfig, now: datetime) -> str:
    backbone = re.sub(r"[^\w.-]+", "-", config.backbone.name)
    return f"{now:%Y%m%d-%H%M%S}-{backbone}-{config.freeze.name}"
