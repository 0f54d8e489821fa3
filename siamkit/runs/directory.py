"""The run directory: its layout, its lock, and its event log."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from siamkit.config import Layer, RunConfig, read_file
from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.files import (
    append_line,
    is_leftover,
    is_there,
    open_regular,
    reading,
    require_unicode,
    write_atomic,
    writing,
)
from siamkit.json_files import read_json, sealed, write_json, write_sealed
from siamkit.portable.csv_rows import RowWriter
from siamkit.portable.manifest import is_export
from siamkit.registry import Provider
from siamkit.runs.checkpoint import newest_first, start_again
from siamkit.spelling import command, setting
from siamkit.words import inert, readable


def run_around(path: Path) -> Path | None:
    """Return the directory of the run that a path lies in; None if it lies in none."""
    runs = (RunDir(folder) for folder in Path(os.path.realpath(path)).parents)
    # Both files, because a project's folder above the path may have a config.yaml of its own.
    return next((run.path for run in runs if run.config.is_file() and run.events.is_file()), None)


class RunDir:
    """The directory of one run.

    A run starts with ``config.yaml`` (the resolved config), ``plugins.json`` (the distribution that
    registered each component) and ``events.jsonl``. Training adds ``checkpoints/``,
    ``embeddings/`` (of the held-out images), ``calibration.json``, ``metrics.json`` and
    ``report.html``. A pruned run has ``pruning.json``, and one with an int8 prefix ``int8.json``.
    ``recipe/`` holds the comparison that chose the run's recipe. If unreadable images were left
    out, ``quarantine.csv`` lists them. A process that uses the run locks ``.lock``, which stays,
    and describes itself in ``.owner.json``, which it removes at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.plugins = path / "plugins.json"
        self.events = path / "events.jsonl"
        self.metrics = path / "metrics.json"
        self.quarantine = path / "quarantine.csv"
        self.checkpoints = path / "checkpoints"
        self.embeddings = path / "embeddings"
        self.calibration = path / "calibration.json"
        self.pruning = path / "pruning.json"
        self.int8 = path / "int8.json"
        self.recipe = path / "recipe"
        self.lock = path / ".lock"
        self.owner = path / ".owner.json"

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.yaml``, in the place of an earlier one."""
        write_atomic(self.config, _kept(config, self.path).to_yaml())

    @classmethod
    def reserve(
        cls,
        config: RunConfig,
        now: datetime | None = None,
        *,
        restart: bool = False,
        kept: Collection[str] = (),
    ) -> RunDir:
        """Return the directory of a new run, which is created if it does not exist.

        Args:
            config: The config.
            now: The time that a default name begins with.
            restart: Whether the directory may hold a run without a checkpoint (:attr:`has_begun`).
            kept: Names of further files and folders that such a run may have.

        Raises:
            ConfigError: The directory is not empty, or lies in another run.
            ResourceError: The directory cannot be read or written.
        """
        run = cls(
            config.run_dir or unused(Path("runs") / _default_name(config, now or datetime.now(UTC)))
        )
        run.require_free(restart=restart, kept=kept)
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
        return run

    def require_free(self, *, restart: bool = False, kept: Collection[str] = ()) -> None:
        """Check that a new run can have this directory.

        The directory must be empty or missing. It must not lie in another run: it would be removed
        together with that run.

        Args:
            restart: Whether the directory may hold a run without a checkpoint.
            kept: Names of further files and folders that such a run may have.

        Raises:
            ConfigError: The directory is not empty, lies in a run, or is not valid Unicode.
            ResourceError: The directory cannot be read.
        """
        path = self.path
        require_unicode(path.absolute())
        if outer := run_around(path):
            raise ConfigError(
                f"lies in the run {outer}",
                where=str(path),
                hint=f"choose another {setting('run_dir')}",
            )
        with writing(path):
            if not self._is_free(restart, kept):
                hint = f"choose another {setting('run_dir')}"
                if self.has_begun:
                    hint += f", or continue the run with {command('train --resume', path)}"
                elif self.config.is_file():
                    hint += f", or start this run again with {start_again(path)}"
                raise ConfigError(
                    "the run directory is not empty" if path.is_dir() else "is not a directory",
                    where=str(path),
                    hint=hint,
                )

    @property
    def has_begun(self) -> bool:
        """True if the run has saved a checkpoint, so that it can be continued.

        Raises:
            CheckpointError: The folder of checkpoints cannot be read.
        """
        return bool(newest_first(self.checkpoints))

    def _is_free(self, restart: bool, kept: Collection[str]) -> bool:
        if not self.path.is_dir():
            return not is_there(self.path)
        names = {entry.name for entry in self.path.iterdir() if not is_leftover(entry)}
        names -= {self.lock.name, self.owner.name}  # of a process that was killed
        if restart and not self.has_begun:
            records = {
                *(self.config, self.plugins, self.events, self.quarantine),
                *(self.checkpoints, self.int8, self.recipe),
            }
            names -= {*(path.name for path in records), *kept}
        return not names

    def restart(self) -> None:
        """Remove the event log and ``quarantine.csv`` of a run without a checkpoint.

        The run must be locked.

        Raises:
            ResourceError: Another process has saved a checkpoint, or a file cannot be removed.
        """
        if self.has_begun:
            raise ResourceError(
                "another process began the run meanwhile",
                where=str(self.path),
                hint="run the command again to continue it",
            )
        with writing(self.path):
            for path in (self.events, self.quarantine):
                path.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Return an existing run.

        Raises:
            CheckpointError: There is no run at ``path``, or its folder cannot be read.
        """
        run = cls(path)
        with reading(path):
            known = is_there(run.config)
        if known:
            return run
        if cls.is_run(path):
            raise CheckpointError(
                "the run's config.yaml is missing",
                where=str(path),
                hint="restore the file from a copy of the run",
            )
        raise CheckpointError(
            "is not a run directory: it has no config.yaml",
            where=str(path),
            hint="it is an exported model: name the run that it was exported from"
            if is_export(path)
            else f"{command('train')} creates one and reports its path",
        )

    @classmethod
    def is_run(cls, path: Path) -> bool:
        """Return whether a folder is the directory of a run, even if files in it are damaged."""
        run = cls(path)
        return os.path.lexists(run.config) or os.path.lexists(run.events)

    def read_config(self, *, trackers: bool = False) -> Layer:
        """Return the values of the run's config.

        Args:
            trackers: Whether to include the run's trackers. Using a network needs none of them, so
                they may be missing.

        Raises:
            ConfigError: The file is not a mapping of sections.
            CheckpointError: The file cannot be read.
        """
        with reading(self.config):
            open_regular(self.config).close()
        layer = read_file(self.config)
        dropped = () if trackers else ("track",)
        kept = {k: v for k, v in layer.items() if k not in dropped}
        return Layer(kept, layer.where, self._providers())

    def write_plugins(self, providers: Mapping[str, Provider]) -> None:
        """Write which distribution registered the component of each config section."""
        write_json(
            self.plugins, {section: asdict(provider) for section, provider in providers.items()}
        )

    def _providers(self) -> dict[str, Provider]:
        """Return the distribution of each component. Empty if unreadable: only messages use it."""
        try:
            values = read_json(self.plugins)
            return {section: Provider(**fields) for section, fields in values.items()}
        except (CheckpointError, TypeError, AttributeError):
            return {}

    def append_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Append one line to the event log. The line is sealed, so that damage is noticed."""
        values = {"time": round(time.time(), 3), "event": name, **data}
        line = json.dumps(sealed(json.loads(json.dumps(values, default=str))))
        with writing(self.events):
            append_line(self.events, line)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_sealed(self.metrics, metrics)

    def write_quarantine(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Write the unreadable images that were left out to ``quarantine.csv``."""
        text = io.StringIO()
        writer = RowWriter(text)
        writer.writerow(("path", "problem"))
        writer.writerows((inert(path), problem) for path, problem in skipped)
        write_atomic(self.quarantine, readable(text.getvalue()))

    @contextmanager
    def locked(self) -> Iterator[str | None]:
        """Lock the run for this process. The system releases the lock when the process ends.

        Yields:
            A notice about a process that used the run and ended without a chance to release the
            lock; None if there was none.

        Raises:
            ResourceError: Another process uses the run, or the directory cannot be written.
        """
        lock = FileLock(self.lock, timeout=0)
        try:
            with writing(self.lock):
                lock.acquire()
        except Timeout:
            raise ResourceError(
                f"the run is in use by {self._owner()}",
                where=str(self.path),
                hint=f"wait for it to end, or choose another {setting('run_dir')}",
            ) from None
        try:
            left = None
            if os.path.lexists(self.owner):
                left = f"{self._owner()} was killed while it used the run; its lock is taken over"
            write_json(self.owner, {"pid": os.getpid(), "host": socket.gethostname()})
            yield left
        finally:
            with suppress(OSError):  # it only serves messages
                self.owner.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove the directory if the block raises and the directory holds no file of a run yet."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # another file is in it, which stays
                for path in (self.lock, self.owner):
                    path.unlink(missing_ok=True)
                self.path.rmdir()
            raise

    def _owner(self) -> str:
        try:
            owner = read_json(self.owner)
            return f"process {owner['pid']} on {owner['host']}"
        except (CheckpointError, KeyError, TypeError):
            return "another process"


def unused(path: Path) -> Path:
    """Return ``path``, or the first of ``path-2``, ``path-3``... that doesn't exist."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def _default_name(config: RunConfig, now: datetime) -> str:
    backbone = re.sub(r"[^\w.-]+", "-", config.backbone.name.rpartition("/")[2])
    return f"{now:%Y%m%d-%H%M%S}-{backbone}-{config.freeze.name}"


def _kept(config: RunConfig, run: Path) -> RunConfig:
    """Return the config to store: without ``run_dir``, and with paths in the run made relative."""
    update: dict[str, Any] = {"run_dir": None}
    for section, keys in (("data", ("path", "root")), ("backbone", ("pruning", "int8"))):
        part = getattr(config, section)
        for key in keys:
            value = getattr(part, key)
            if value is not None and Path(value).is_relative_to(run.absolute()):
                relative = type(value)(os.path.relpath(value, run.absolute()))
                part = part.model_copy(update={key: relative})
        update[section] = part
    return config.model_copy(update=update)
