"""The run: starts one from a config, or resumes one from its latest checkpoint."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from siamkit.config import RESUMABLE, SAMPLE, Layer, RunConfig, flat, resolve
from siamkit.data.opening import load_data
from siamkit.data.splits import Splits
from siamkit.engine.settings import Emit
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted, ResourceError
from siamkit.files import is_there, writing
from siamkit.guard import attributing
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.calibration import calibrate_run, calibration_of
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener, emitter
from siamkit.runs.held_out import HeldOut
from siamkit.runs.open import OpenRun
from siamkit.spelling import command, setting, settings
from siamkit.training.batching import part_of
from siamkit.training.build import Setup, build, identity, prepare_images, providers
from siamkit.training.loading import TEST, VAL
from siamkit.training.loop import Trainer
from siamkit.training.optimizer import state_size
from siamkit.training.signals import listening
from siamkit.training.state import Metrics, RunState, below_baseline
from siamkit.training.step import moved
from siamkit.training.tensors import load_model_tensors, model_tensors
from siamkit.training.tracking import build_trackers, closing

Result = dict[str, Any]


def fit(
    config: RunConfig,
    registries: Mapping[str, Registry],
    listeners: Sequence[Listener] = (),
    observers: Sequence[Listener] = (),
    *,
    notices: Sequence[str] = (),
    reserved: RunDir | None = None,
    restart: bool = False,
) -> Result:
    """Train from the start and return the result object of ``siamkit train --json``.

    Args:
        config: A resolved config.
        registries: The registry of each component section, and of ``track``.
        listeners: Called with every event.
        observers: Plugins that receive the events too; one that fails is left out.
        notices: Notices about the data, for the run's start.
        reserved: The run's directory, if it was reserved and already holds the run's data.
        restart: Whether the directory may hold a run that was stopped before its first checkpoint,
            which starts again.

    Raises:
        SiamkitError: The run failed; see :mod:`siamkit.errors`.
    """
    trackers = build_trackers(config, registries["track"])
    splits = _load(config)
    setup = build(_with_monitor(config, splits), registries, len(splits.train.classes))
    about_images = prepare_images(setup, splits)
    splits = replace(splits, notices=(*notices, *splits.notices, *about_images))
    config = setup.config
    _require_loss(setup, splits)
    _require_space(config.run_dir or Path.cwd(), setup)
    run_dir = reserved or RunDir.reserve(config, restart=restart)
    with run_dir.locked():
        if restart:
            run_dir.restart()
        run_dir.write_config(config)
        run_dir.write_plugins(providers(config, registries))
        if splits.skipped and config.data.on_unreadable == "quarantine":
            run_dir.write_quarantine(splits.skipped)
        state = RunState(weights=setup.weights, identity=identity(config, splits, registries))
        emit = emitter(run_dir, listeners, [*observers, *trackers])
        with closing(trackers, emit):
            return _run(setup, splits, state, run_dir, emit, None)


def resume(
    path: Path,
    registries: Mapping[str, Registry],
    listeners: Sequence[Listener] = (),
    observers: Sequence[Listener] = (),
    changes: Layer | None = None,
    *,
    strict: bool = False,
) -> Result:
    """Resume the run at ``path`` from its latest intact checkpoint.

    Args:
        path: The run's directory.
        registries: As for :func:`fit`.
        listeners: As for :func:`fit`.
        observers: As for :func:`fit`.
        changes: Values of keys that decide no result, such as the place of the data. The run keeps
            them.
        strict: Whether a damaged checkpoint is an error, rather than gone back from.

    Raises:
        CheckpointError: There is none, or the config, data or plugins have changed.
        ConfigError: A change would decide the result.
    """
    run = OpenRun(path, lambda: registries, trackers=True)
    run_dir, config = run.dir, run.config
    if changes:
        config = _changed(run, changes)
    trackers = build_trackers(config, registries["track"])
    with run_dir.locked(), ExitStack() as ending:
        emit = emitter(run_dir, listeners, [*observers, *trackers])
        ending.enter_context(closing(trackers, emit))
        saved, notice = checkpoint.latest_intact(run_dir.checkpoints, strict=strict)
        if notice:
            emit("notice", {"text": notice})
        try:
            _require_best(saved)
        except CheckpointError as error:
            if strict:
                raise
            lost = f"the best epoch's network is lost unless a later epoch is better: {error}"
            emit("notice", {"text": lost})
        splits = _load_again(config, run_dir)
        state = RunState.from_json(saved.state)
        _require_same(state.identity, identity(config, splits, registries), run_dir)
        if changes:
            run_dir.write_config(config)
        setup = build(config, registries, len(splits.train.classes), weights="none")
        setup.weights = state.weights
        if not state.is_over(config.train.epochs):
            there = len(checkpoint.newest_first(run_dir.checkpoints))
            _require_space(run_dir.path, setup, there)
        return _run(setup, splits, state, run_dir, emit, saved)


def _changed(run: OpenRun, changes: Layer) -> RunConfig:
    """Return a run's config with some changes.

    Raises:
        ConfigError: A change would decide the result.
    """
    wrong = [key for key, _ in flat(changes) if key not in RESUMABLE]
    if wrong:
        raise ConfigError(
            "cannot be changed when a run goes on",
            where=", ".join(changes.where(key) for key in wrong),
            allowed=", ".join(setting(key) for key in RESUMABLE),
            hint=f"{command('train', config=run.dir.config)} starts a new run with other settings",
        )
    layer = run.dir.read_config(trackers=True)
    return resolve(run.registries, layer, changes, where=str(run.dir.config))


def _require_best(saved: SavedCheckpoint) -> None:
    """Check the checkpoint of the best epoch, if there is one.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    best = saved.state["best_checkpoint"]
    if best not in (None, saved.name):
        checkpoint.load_network(saved.folder.with_name(best))


def _with_monitor(config: RunConfig, splits: Splits) -> RunConfig:
    """Return the config with the metric that picks the best epoch.

    Raises:
        ConfigError: The data does not have that metric.
    """
    has_tuples = splits.val.tuples is not None
    monitor = config.train.monitor or ("auc" if has_tuples else config.train.monitored)
    if has_tuples != (monitor == "auc"):
        kind = "pairs or triplets" if has_tuples else "labelled images"
        raise ConfigError(
            f"is not measured on {kind}",
            where="train.monitor",
            got=monitor,
            allowed="auc" if has_tuples else "recall@1, map@r",
        )
    train = config.train.model_copy(update={"monitor": monitor})
    return config.model_copy(update={"train": train})


def _require_loss(setup: Setup, splits: Splits) -> None:
    """Try the loss on known pairs or triplets before the training starts.

    Raises:
        ConfigError: The loss cannot use pairs, or triplets.
    """
    tuples = splits.train.tuples
    if tuples is None:
        return
    part = part_of(tuples, range(min(len(tuples), 2)))
    assert part.tuples is not None
    embeddings = torch.eye(len(part.images), setup.net.embedding_dim, device=setup.device)
    with torch.no_grad():
        setup.loss(embeddings, None, moved(part.tuples, setup.device))


def _load_again(config: RunConfig, run_dir: RunDir) -> Splits:
    try:
        return _load(config)
    except DataError as error:
        if Path(config.data.path).exists() or config.data.path == SAMPLE:
            raise
        raise DataError(
            error.what,
            where=error.where,
            hint=f"if the data was moved, add {setting('data.path', 'PLACE')} to "
            + command("train --resume", run_dir.path),
        ) from None


def _load(config: RunConfig) -> Splits:
    return load_data(config.data, config.train.seed)


def _run(
    setup: Setup,
    splits: Splits,
    state: RunState,
    run_dir: RunDir,
    emit: Emit,
    saved: SavedCheckpoint | None,
) -> Result:
    with listening() as stop:
        with attributing(setup.plugins):
            trainer = Trainer(setup, splits, state, run_dir, emit, stop)
            if saved:
                trainer.restore(saved)
            emit("run_start", _start_data(trainer))
            trainer.run()
            best = _best(trainer)
            held_out = _embed_held_out(trainer, best)
        calibration = _calibrated(trainer, best, held_out[VAL], emit)
        result = {**_result(trainer, held_out), "calibration": calibration}
        run_dir.write_metrics(result)
        at_best = state.history[state.best_epoch or 0]
        if notice := below_baseline(state.untrained, at_best, setup.schedule.monitor):
            emit("notice", {"text": notice})
        emit("run_end", result)
    if stop.exit_code is not None:
        raise Interrupted(
            f"stopped by {stop.name} when the training was complete; only the report is missing",
            exit_code=stop.exit_code,
            hint=f"{command('report', run_dir.path)} writes it",
        )
    return result


def _start_data(trainer: Trainer) -> dict[str, Any]:
    config, splits = trainer.setup.config, trainer.splits
    notices = [*splits.notices, *trainer.notices]
    if trainer.setup.weights.startswith("random"):
        notices.append(
            "the backbone starts from random weights, so freezing any part of it keeps noise: "
            "train all of it, and its norm statistics, with "
            + settings({"freeze.name": "full", "freeze.norm": "train"})
        )
    if config.train.micro_batch and config.train.micro_batch < config.train.batch_size:
        notices.append(
            f"gradients accumulate over micro-batches of {config.train.micro_batch} images: "
            "positives and negatives come from the same micro-batch only, so the result differs "
            "from a batch of the full size"
        )
    return {
        "run_dir": str(trainer.run_dir.path),
        "config": config.to_values(),
        "weights": trainer.setup.weights,
        "data": {
            "how": splits.how,
            "train_images": len(splits.train),
            "train_classes": len(splits.train.classes),
            "val_images": len(splits.val),
            "val_classes": len(splits.val.classes),
            "train": str(splits.train),
            "val": str(splits.val),
            "test": None if splits.test is None else str(splits.test),
        },
        "notices": notices,
        "versions": _versions(trainer.state.identity),
        "epochs": config.train.epochs,
        "steps_per_epoch": trainer.steps_per_epoch,
        "device": str(trainer.setup.device),
        "finished_epochs": trainer.state.epoch,
        "finished_steps": trainer.state.step,
    }


def _versions(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the libraries, plugins and platform of a run."""
    plugins = {k.removeprefix("plugin "): v for k, v in identity.items() if k.startswith("plugin ")}
    return {
        **{name: importlib.metadata.version(name) for name in ("siamkit", "torch", "timm")},
        **plugins,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _result(trainer: Trainer, held_out: Mapping[str, HeldOut]) -> Result:
    setup, state, run_dir = trainer.setup, trainer.state, trainer.run_dir
    names = tuple(state.untrained)
    epoch = state.best_epoch or 0
    best = {name: state.history[epoch][name] for name in names}
    metrics: dict[str, Any] = {
        "untrained": state.untrained,
        "best": {**best, "epoch": epoch + 1},
        "last": {name: state.history[-1][name] for name in names},
    }
    if TEST in held_out:
        # Test classes played no part in choosing the best epoch.
        scored = trainer.scorer.score(TEST, held_out[TEST].embeddings)
        metrics["test"] = {"untrained": state.untrained_test, "best": scored}
    return {
        "run_dir": str(run_dir.path),
        "epochs": len(state.history),
        "phases": _phase_rows(setup, state.history),
        "metrics": metrics,
        "stopped_early": state.stopped_early,
        "history": state.history,
    }


def _best(trainer: Trainer) -> SavedCheckpoint:
    """Return the checkpoint of the best epoch.

    Raises:
        CheckpointError: It is lost; the message says what is left.
    """
    root, name = trainer.run_dir.checkpoints, trainer.state.best_checkpoint
    try:
        return checkpoint.load_network(root / str(name))
    except CheckpointError as error:
        raise CheckpointError(
            f"the best epoch's network is lost: {error.what}",
            where=error.where,
            hint="that of the last epoch can be used, or start a new run",
        ) from None


def _embed_held_out(trainer: Trainer, best: SavedCheckpoint) -> dict[str, HeldOut]:
    """Embed the held-out images with the best epoch's network, and save the embeddings."""
    setup, state, run_dir = trainer.setup, trainer.state, trainer.run_dir
    load_model_tensors(setup, best.model)
    kernel = None if state.decision is None else state.decision.kernel
    held_out: dict[str, HeldOut] = {}
    for part in (VAL, TEST):
        if part in trainer.sets:
            embeddings = trainer.scorer.from_rows(part, trainer.execution)
            if embeddings is None:
                embeddings = trainer.scorer.embedded(part, setup.net, kernel)
            images = trainer.sets[part].images
            epoch = state.best_epoch or 0
            held_out[part] = HeldOut(
                part, images, embeddings, epoch, best.network, setup.net.preprocessing
            )
            held_out[part].save(run_dir)
    return held_out


def _calibrated(
    trainer: Trainer, best: SavedCheckpoint, held_out: HeldOut, emit: Emit
) -> dict[str, Any] | None:
    """Fit a threshold on the validation images, or emit a notice if they do not allow it.

    An existing threshold for the same network stays, because the user may have chosen its target.
    """
    run_dir, config = trainer.run_dir, trainer.setup.config
    try:
        return calibration_of(run_dir, best).to_json()
    except CheckpointError as error:
        if is_there(run_dir.calibration):
            emit("notice", {"text": f"the threshold is fitted again: {error}"})
    with writing(run_dir.calibration):
        run_dir.calibration.unlink(missing_ok=True)
    try:
        calibration = calibrate_run(run_dir, best, held_out, config.calibration, config.data.path)
    except DataError as error:
        emit("notice", {"text": f"no threshold was fitted: {error}"})
        return None
    return calibration.to_json()


def _phase_rows(setup: Setup, history: Sequence[Metrics]) -> list[dict[str, int]]:
    """Return the phases that the run went through, for the result object."""
    sizes = setup.controller.sizes
    epochs = len(history)
    return [
        {
            "first_epoch": phase.start_epoch + 1,
            "last_epoch": min(phase.end_epoch, epochs),
            "trainable_parameters": sum(sizes[name] for name in phase.plan.trainable),
        }
        for phase in setup.schedule.phases(history)
        if phase.start_epoch < epochs
    ]


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: RunDir) -> None:
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise CheckpointError(
            f"cannot be resumed: {', '.join(changed)} changed since it was saved",
            where=str(run_dir.path),
            hint="start a new run, or restore what changed",
        )


def _require_space(path: Path, setup: Setup, there: int = 0) -> None:
    """Refuse a run whose checkpoints will not fit on the disk, before the training starts.

    Args:
        path: The run's directory.
        setup: The parts of the run.
        there: The number of its checkpoints that are on the disk already.
    """
    weights = sum(t.numel() * t.element_size() for t in model_tensors(setup).values())
    state = state_size(setup.optimizer) * weights
    at_once = setup.config.train.keep_checkpoints + 2  # the best, and the one being written
    needed = max(at_once - there, 1) * (weights + state)
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"not enough disk space for checkpoints: {needed / 1e9:.1f} GB needed, "
            f"{free / 1e9:.1f} GB free",
            where=str(path),
            hint="free some space"
            if there
            else f"free some space, or choose another {setting('run_dir')}",
        )
