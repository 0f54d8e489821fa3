"""Open runs: read each file of a run when it is needed, at most once, and check it."""

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
from siamkit.spelling import command

Which = Literal["best", "last"]
"""The network of the best epoch, or the last one that was saved."""


class OpenRun:
    """An existing run. Each file is read when it is first needed.

    Args:
        path: The run's directory.
        registries: Returns the registry of each component section; called when the config is
            needed.

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
        """The resolved config, without trackers, which using a network does not need.

        Raises:
            ConfigError: The file cannot be read, or holds a wrong key, name or value.
        """
        return resolve(self.registries, self.dir.read_config(), where=str(self.dir.config))

    def checkpoint_name(self, which: Which = "best") -> str:
        """Return the name of a checkpoint.

        Raises:
            ConfigError: ``which`` is neither ``best`` nor ``last``.
            CheckpointError: The run has no such checkpoint yet.
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
                hint=f"{command('train --resume', self.path)} continues the run",
            )
        return name

    def checkpoint(self, which: Which = "best") -> Checkpoint:
        """Return a checkpoint after checking the hash of every file.

        Raises:
            ConfigError: ``which`` is neither ``best`` nor ``last``.
            CheckpointError: The run has no such checkpoint yet, or it is damaged.
        """
        name = self.checkpoint_name(which)
        if name not in self._checkpoints:
            self._checkpoints[name] = checkpoint.load(self.dir.checkpoints / name)
        return self._checkpoints[name]

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """The held-out metrics of each finished epoch; empty if no checkpoint is intact."""
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

        It reads no checkpoint, so it also works after these were removed.

        Raises:
            CheckpointError: The calibration is damaged, or was fitted for another network.
        """
        if not self.dir.calibration.is_file():
            return None
        kept = Calibration.load(self.dir.calibration)
        if kept.provenance.epoch != held_out.epoch + 1:
            raise CheckpointError(
                "the threshold was fitted for another epoch's network",
                where=str(self.dir.calibration),
                got=kept.provenance.epoch,
                allowed=str(held_out.epoch + 1),
                hint=f"{command('calibrate', self.path)} fits one for the best epoch's network",
            )
        return kept

    def held_out(self, part: str) -> HeldOut | None:
        """Return the stored embeddings of ``val`` or ``test``; None if the run has none.

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
        """The ``metrics`` of ``metrics.json``; empty if the file is missing or damaged."""
        try:
            values = json.loads(self.dir.metrics.read_text(encoding="utf-8"))["metrics"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def config_text(self) -> str:
        """The text of ``config.yaml``; empty if it cannot be read."""
        try:
            return self.dir.config.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
