"""An open run: reads each file of a run at most once, checked, for whatever a command needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from siamkit.config import RunConfig, resolve
from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.calibration import Calibration
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.calibration import best_checkpoint, calibration_of
from siamkit.runs.checkpoint import Checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import Log, read_log

Which = Literal["best", "last"]
"""The network of the best epoch, or the last one that was saved."""


class OpenRun:
    """An existing run. Nothing but its directory is looked at before it is asked for.

    Args:
        path: The run's directory.
        registries: Returns the registry of each component section; called if the config is needed.

    Attributes:
        dir: The paths of the run.

    Raises:
        CheckpointError: There is no run at ``path``.
    """

    def __init__(self, path: str | Path, registries: Callable[[], Mapping[str, Registry]]) -> None:
        self.dir = RunDir.open(Path(path))
        self._registries = registries
        self._checkpoints: dict[str, Checkpoint] = {}

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.dir.path

    @cached_property
    def registries(self) -> Mapping[str, Registry]:
        """The registry of each component section."""
        return self._registries()

    @cached_property
    def config(self) -> RunConfig:
        """The resolved config, without trackers: they need not be installed to use a network.

        Raises:
            ConfigError: The file cannot be read, or holds a wrong key, name or value.
        """
        return resolve(self.registries, self.dir.read_config(), where=str(self.dir.config))

    def checkpoint_name(self, which: Which = "best") -> str:
        """Return the name of a checkpoint.

        Raises:
            ConfigError: ``which`` is neither.
            CheckpointError: The run has none yet.
        """
        if which == "best":
            return best_checkpoint(self.dir)
        if which != "last":
            raise ConfigError("no such checkpoint", where="which", got=which, allowed="best, last")
        name = checkpoint.pointed_to(self.dir.checkpoints, checkpoint.LATEST)
        if name is None:
            raise CheckpointError(
                "has saved no checkpoint yet",
                where=str(self.path),
                hint=f"'siamkit train --resume {self.path}' goes on with it",
            )
        return name

    def checkpoint(self, which: Which = "best") -> Checkpoint:
        """Return a checkpoint, every byte of it checked.

        Raises:
            ConfigError: ``which`` is neither.
            CheckpointError: There is none, or it is damaged.
        """
        name = self.checkpoint_name(which)
        if name not in self._checkpoints:
            self._checkpoints[name] = checkpoint.load(self.dir.checkpoints / name)
        return self._checkpoints[name]

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The held-out metrics of each finished epoch; empty where nothing was saved yet."""
        try:
            saved, _ = checkpoint.latest_intact(self.dir.checkpoints)
        except CheckpointError:
            return []
        return list(saved.state["history"])

    def calibration(self, which: Which = "best") -> Calibration:
        """Return the calibration of a network of the run.

        Raises:
            CheckpointError: There is none, it is damaged, or it was fitted for another network.
        """
        return calibration_of(self.dir, self.checkpoint_name(which))

    def calibration_for(self, held_out: HeldOut) -> Calibration | None:
        """Return the calibration of the network that embedded some images; None without one.

        It takes no checkpoint, so it works where they were removed.

        Raises:
            CheckpointError: It is damaged, or it was fitted for another network.
        """
        if not self.dir.calibration.is_file():
            return None
        kept = Calibration.load(self.dir.calibration)
        if kept.provenance.epoch != held_out.epoch:
            raise CheckpointError(
                "the threshold was fitted for another epoch's network",
                where=str(self.dir.calibration),
                got=kept.provenance.epoch + 1,
                allowed=str(held_out.epoch + 1),
                hint=f"'siamkit calibrate {self.path}' fits one for the best epoch's network",
            )
        return kept

    def held_out(self, part: str) -> HeldOut | None:
        """Return the kept embeddings of ``val`` or ``test``; None where the run has none.

        Raises:
            CheckpointError: The file is damaged.
        """
        return HeldOut.load(self.dir, part)

    @cached_property
    def log(self) -> Log:
        """The events that were logged."""
        return read_log(self.dir.events)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The ``metrics`` of ``metrics.json``; empty where it is missing or damaged."""
        try:
            values = json.loads(self.dir.metrics.read_text(encoding="utf-8"))["metrics"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def config_text(self) -> str:
        """``config.yaml`` as it is written; empty where it cannot be read."""
        try:
            return self.dir.config.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
