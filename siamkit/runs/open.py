"""Open runs: the one place where a run is read. Each file is read at most once, and checked.

Everything that decides a result is checked. The files of a checkpoint must have the hashes of its
sealed manifest. The config must be the one that the checkpoints were trained with. Held-out
embeddings and the calibration must belong to the network. The data must be that of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from siamkit.config import RunConfig, decisive, flat, resolve
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.errors import CheckpointError, ConfigError, SiamkitError
from siamkit.files import is_there, read_bytes, reading
from siamkit.json_files import read_sealed
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import Quantized
from siamkit.portable.calibration import Calibration
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.calibration import calibrate_hint, calibration_of, read_calibration
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import Log, read_log
from siamkit.spelling import command, setting

_CHANGED = {"pruning": "pruned", "int8": "partly in int8"}
"""What the record of each key says about the network."""

Which = Literal["best", "last"]
"""The network of the best epoch, or the last one that was saved."""


class OpenRun:
    """An existing run. Each file is read when it is first needed.

    Args:
        path: The run's directory.
        registries: Returns the registry of each component section; called when the config is
            needed.
        trackers: Whether the config includes the run's trackers. Using a network needs none of
            them, so they may be missing.

    Attributes:
        dir: The paths of the run.

    Raises:
        CheckpointError: There is no run at ``path``, or it cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        registries: Callable[[], Mapping[str, Registry]],
        *,
        trackers: bool = False,
    ) -> None:
        self.dir = RunDir.open(Path(path))
        self._registries, self._trackers = registries, trackers
        self._checkpoints: dict[str, SavedCheckpoint] = {}

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
        """The resolved config, checked to be the one that the run's checkpoints were trained with.

        Raises:
            ConfigError: The file holds a wrong key, name or value.
            CheckpointError: The file cannot be read, or a value changed that decides results.
        """
        layer = self.dir.read_config(trackers=self._trackers)
        config = resolve(self.registries, layer, where=str(self.dir.config))
        if self._readable is not None:
            self._require_config(config, self._readable)
        return config

    @property
    def int8(self) -> Quantized | None:
        """The record of the backbone's part that is computed in int8; None without one.

        Raises:
            CheckpointError: The record is damaged.
        """
        return Quantized.load(self.dir.int8) if is_there(self.dir.int8) else None

    @property
    def config_problem(self) -> str | None:
        """How ``config.yaml`` differs from the config that the run was trained with, or None.

        The config is only resolved, which needs plugins, if the file looks different.
        """
        try:
            if self._readable is None:
                return None
            now = {f"config {key}": v for key, v in flat(self.dir.read_config())}
            before = self._readable.state["identity"]
            if any(before[k] != now.get(k, before) for k in before if k.startswith("config ")):
                _ = self.config
        except CheckpointError as error:
            return str(error)
        except SiamkitError:  # a plugin or a registered object is missing, or a key is damaged
            return f"{self.dir.config}: cannot be compared with the run's checkpoints"
        return None

    def _require_config(self, config: RunConfig, saved: SavedCheckpoint) -> None:
        facts = saved.state["identity"]
        self._require_record("pruning", Pruning.load, config.backbone.pruning, facts)
        self._require_record("int8", Quantized.load, config.backbone.int8, facts)
        now = {f"config {key}": value for key, value in decisive(config).items()}
        before = {k: v for k, v in saved.state["identity"].items() if k.startswith("config ")}
        changed = sorted(key for key in before if key not in now or now[key] != before[key])
        if not changed:
            return
        one = changed[0] if len(changed) == 1 else None
        raise CheckpointError(
            f"{', '.join(changed)} changed since the run was saved",
            where=str(self.dir.config),
            got=None if one is None else str(now.get(one)),
            allowed=None if one is None else str(before[one]),
            hint="restore the file, or start a new run with the new settings: "
            + command("train", config=self.dir.config),
        )

    def _require_record(
        self,
        key: str,
        load: Callable[[Path], Pruning | Quantized],
        record: Path | None,
        facts: Mapping[str, Any],
    ) -> None:
        """Check that the config names the record of how the run's backbone was changed."""
        digest = facts.get(key)
        if (record is None) != (digest is None):
            raise CheckpointError(
                f"backbone.{key} changed since the run was saved",
                where=str(self.dir.config),
                got=None if record is None else str(record),
                allowed=f"no value, because the run's network is not {_CHANGED[key]}"
                if digest is None
                else f"the file {key}.json of the run, whose network is {_CHANGED[key]}",
                hint="restore the file",
            )
        if record is not None and load(record).digest != digest:
            raise CheckpointError(
                f"the file does not describe how the run's network was {_CHANGED[key]}",
                where=str(record),
                hint=f"restore the run's {key}.json, and backbone.{key} in its config.yaml",
            )

    # --- checkpoints ---

    @cached_property
    def _readable(self) -> SavedCheckpoint | None:
        """The newest checkpoint whose state is intact; None without one."""
        for folder in checkpoint.newest_first(self.dir.checkpoints):
            try:
                return checkpoint.load_state(folder)
            except CheckpointError:
                continue
        return None

    @cached_property
    def _newest(self) -> SavedCheckpoint | None:
        """The newest checkpoint, of which only the state is checked; None without one.

        Raises:
            CheckpointError: The state is damaged. An older checkpoint may not know the best epoch.
        """
        for folder in checkpoint.newest_first(self.dir.checkpoints):
            return self._told(folder.name, lambda: checkpoint.load_state(folder))  # noqa: B023
        return None

    @cached_property
    def best(self) -> SavedCheckpoint:
        """The checkpoint of the best epoch, of which only the state is checked.

        Raises:
            CheckpointError: There is no best epoch yet, or its checkpoint is damaged.
        """
        name = None if self._newest is None else self._newest.state["best_checkpoint"]
        if name is None:
            raise CheckpointError(
                "has no best epoch yet",
                where=str(self.path),
                hint=f"finish the run with {command('train --resume', self.path)}",
            )
        return self._told(name, lambda: checkpoint.load_state(self.dir.checkpoints / name))

    @property
    def best_epoch(self) -> int:
        """The best epoch, from 0; -1 if the network before the first step is the best.

        Raises:
            CheckpointError: As for :attr:`best`.
        """
        # The first checkpoint was saved before anything was measured.
        epoch = self.best.state["best_epoch"]
        return -1 if epoch is None else int(epoch)

    def checkpoint_name(self, which: Which = "best") -> str:
        """Return the name of a checkpoint.

        Raises:
            ConfigError: ``which`` is neither ``best`` nor ``last``.
            CheckpointError: The run has no such checkpoint yet.
        """
        if which == "best":
            return self.best.name
        if which != "last":
            raise ConfigError("no such checkpoint", where="which", got=which, allowed="best, last")
        if self._newest is None:
            raise CheckpointError(
                "has saved no checkpoint yet",
                where=str(self.path),
                hint=f"{command('train --resume', self.path)} continues the run",
            )
        state = self._newest.state
        if self._newest.is_slim and self._newest.name != checkpoint.name_of(
            state["epoch"], state["step"]
        ):
            raise CheckpointError(
                "the run is slim: it kept only the network of its best epoch",
                where=str(self.path),
                hint="use the network of the best epoch, or train again with "
                + setting("train.keep", "all"),
            )
        return self._newest.name

    def checkpoint(self, which: Which = "best") -> SavedCheckpoint:
        """Return a checkpoint after checking its files, except the optimizer's state.

        Raises:
            ConfigError: ``which`` is neither ``best`` nor ``last``.
            CheckpointError: The run has no such checkpoint yet, or it is damaged.
        """
        name = self.checkpoint_name(which)
        if name not in self._checkpoints:
            folder = self.dir.checkpoints / name
            self._checkpoints[name] = self._told(name, lambda: checkpoint.load_network(folder))
        return self._checkpoints[name]

    def some_checkpoint(self) -> SavedCheckpoint:
        """Return the best checkpoint, or the newest one if there is no best epoch yet.

        What never trains is the same in all of them.

        Raises:
            CheckpointError: The run has no checkpoint yet, or it is damaged.
        """
        newest = self._newest
        has_best = newest is not None and newest.state["best_checkpoint"] is not None
        return self.checkpoint("best" if has_best else "last")

    def _told(self, name: str, load: Callable[[], SavedCheckpoint]) -> SavedCheckpoint:
        """Return the result of ``load``. If it fails, the error says what to do next."""
        try:
            return load()
        except CheckpointError as error:
            newest, *older = checkpoint.newest_first(self.dir.checkpoints)
            if name == newest.name and not older:
                hint = (
                    "it is the only checkpoint of the run: restore it from a copy, or train again"
                )
            elif name == newest.name:
                hint = f"{command('train --resume', self.path)} goes back to the checkpoint before"
            else:
                hint = "the network of the best epoch is lost; use the network of the last epoch"
            raise CheckpointError(
                error.what, where=error.where, got=error.got, allowed=error.allowed, hint=hint
            ) from None

    @property
    def history(self) -> list[dict[str, float]]:
        """The held-out metrics of each finished epoch; empty if no checkpoint is intact."""
        return [] if self._readable is None else list(self._readable.state["history"])

    # --- what belongs to a network ---

    def calibration(self, which: Which = "best") -> Calibration:
        """Return the calibration of a network of the run.

        Raises:
            CheckpointError: There is no calibration, or a damaged one, or one for another network.
        """
        self.checkpoint_name(which)  # raises if ``which`` is unknown
        return calibration_of(self.dir, self.best if which == "best" else self.checkpoint(which))

    def calibration_for(self, held_out: HeldOut) -> Calibration | None:
        """Return the calibration of the network that embedded some images; None without one.

        No checkpoint is read, so this also works after the checkpoints were removed.

        Raises:
            CheckpointError: The calibration is damaged, or was fitted for another network.
        """
        kept = read_calibration(self.dir)
        if kept is not None and kept.provenance.network != held_out.network:
            raise CheckpointError(
                "the threshold was fitted for another epoch's network",
                where=str(self.dir.calibration),
                got=kept.provenance.epoch,
                allowed=str(held_out.epoch + 1),
                hint=calibrate_hint(self.dir),
            )
        return kept

    def held_out(self, part: str) -> HeldOut | None:
        """Return the stored embeddings of ``val`` or ``test``.

        None means that the run has no such embeddings by the network of its best epoch; a resumed
        run makes them at its end. If the checkpoints were removed, the network is not compared.

        Raises:
            CheckpointError: The file, or the best epoch's checkpoint, is damaged.
        """
        kept = HeldOut.load(self.dir, part)
        if kept is None or self._newest is None:
            return kept
        return kept if kept.network == self.best.network else None

    def final_held_out(self, part: str) -> HeldOut | None:
        """Return the stored embeddings of ``val`` or ``test``, like :meth:`held_out`.

        Raises:
            CheckpointError: The file or the best epoch's checkpoint is damaged. Or the file is
                missing, although the run has ended and had such images.
        """
        kept = self.held_out(part)
        had_images = self.digest_of(part) not in (None, digest(None))
        if kept is None and had_images and self.ended:
            raise CheckpointError(
                "the file is missing",
                where=str(HeldOut.file(self.dir, part)),
                hint=f"{command('train --resume', self.path)} writes it again",
            )
        return kept

    def require_images(self, part: str, images: ImageSet) -> None:
        """Check that images are those that the run held out of its training.

        Args:
            part: ``val`` or ``test``.
            images: The part of the run's data, as it is now.

        Raises:
            CheckpointError: The data has changed, so the run may have trained on these images.
        """
        if self.digest_of(part) not in (None, digest(images)):
            raise CheckpointError(
                "the data has changed since the run, which may have trained on these images",
                where=str(self.path),
                hint="restore the data, or name other images that the run has not seen",
            )

    def digest_of(self, part: str) -> str | None:
        """Return the hash of a part of the data as it was in training; None without a checkpoint.

        Args:
            part: ``train``, ``val`` or ``test``.
        """
        return None if self._readable is None else self._readable.state["identity"][f"data {part}"]

    # --- records ---

    @cached_property
    def log(self) -> Log:
        """The events that were logged."""
        return read_log(self.dir.events)

    @property
    def ended(self) -> bool:
        """True if the event log says that the run is complete."""
        names = [event["event"] for event in self.log.events]
        last = max((i for i, name in enumerate(names) if name == "run_start"), default=0)
        return "run_end" in names[last:]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The ``metrics`` of ``metrics.json``; empty if the run has not ended.

        Raises:
            CheckpointError: The file cannot be read, is damaged, or is missing although the run has
                ended.
        """
        hint = f"{command('train --resume', self.path)} writes it again"
        with reading(self.dir.metrics, hint):
            if not is_there(self.dir.metrics) and not self.ended:
                return {}
        values: dict[str, Any] = read_sealed(self.dir.metrics, hint)["metrics"]
        return values

    @property
    def config_text(self) -> str:
        """The text of ``config.yaml``; empty if it cannot be read."""
        try:
            return read_bytes(self.dir.config).decode(errors="replace")
        except OSError:
            return ""
