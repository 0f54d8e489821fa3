"""Training runs: start one from a config, or resume one from its latest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from siamkit.config import RESUMABLE, SAMPLE, Layer, RunConfig, flat, resolve
from siamkit.data.load import load_data
from siamkit.data.splits import Splits
from siamkit.engine.settings import Emit
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted
from siamkit.guard import attributing
from siamkit.interfaces import Event
from siamkit.json_files import read_sealed
from siamkit.model.device import using_threads
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener, emitter
from siamkit.runs.open import OpenRun
from siamkit.spelling import command, setting
from siamkit.training.begin import write_records
from siamkit.training.build import Setup, build_for, identity, prepare_images
from siamkit.training.find_lr import rate_of_run, with_rate
from siamkit.training.finish import best_network, calibrated, embed_held_out
from siamkit.training.loading import VAL
from siamkit.training.loop import Trainer
from siamkit.training.quantize import INT8, QuantizedPrefix, quantized
from siamkit.training.requirements import (
    for_data,
    head_notices,
    require_best,
    require_loss,
    require_one_process,
    require_same,
    require_space,
)
from siamkit.training.results import Result, run_result, start_data
from siamkit.training.signals import listening
from siamkit.training.solving import require_solvable
from siamkit.training.state import RunState, below_baseline, lost
from siamkit.training.tracking import build_trackers, closing
from siamkit.words import plural


def fit(
    config: RunConfig,
    registries: Mapping[str, Registry],
    listeners: Sequence[Listener] = (),
    observers: Sequence[Listener] = (),
    *,
    notices: Sequence[str] = (),
    reserved: RunDir | None = None,
    restart: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Result:
    """Train from the start and return the result object of ``siamkit train --json``.

    Args:
        config: A resolved config.
        registries: The registry of each component section, and of ``track``.
        listeners: Called with every event.
        observers: Plugins, called with every event too. A plugin that raises is left out from then
            on.
        notices: Notices about the data, for the event ``run_start``.
        reserved: The run's directory, if the caller has made it and written the run's data into it.
        restart: Whether the directory may hold a run that was stopped before its first checkpoint.
            Such a run starts again.
        recipe: How the recipe of the config was chosen, for the run's records.

    Raises:
        SiamkitError: The run failed; see :mod:`siamkit.errors`.
    """
    require_one_process()
    # The record of another run's int8 part: this run makes its own.
    config = config.model_copy(
        update={"backbone": config.backbone.model_copy(update={"int8": None})}
    )
    with using_threads(config.train.threads) as threads:
        trackers = build_trackers(config, registries["track"])
        splits = _load(config)
        setup = build_for(splits, for_data(config, splits, registries), registries)
        about_images = prepare_images(setup, splits)
        about_head = *head_notices(config, splits.val.tuples is not None), *setup.notices
        splits = replace(splits, notices=(*notices, *splits.notices, *about_images, *about_head))
        config = setup.config
        require_loss(setup, splits)
        require_solvable(setup, splits)
        require_space(config.run_dir or Path.cwd(), setup)
        run_dir = reserved or RunDir.reserve(config, restart=restart)
        with run_dir.locked() as left:
            if restart:
                run_dir.restart()
            found = made = None
            with run_dir.discarded_on_error():
                if config.engine.prefix == INT8:
                    setup, splits, made = _with_int8(setup, splits, run_dir, listeners)
                    config = setup.config
                if config.optimizer.lr == "auto" and config.train.epochs:
                    found = rate_of_run(config, registries, splits, listeners, made)
                    setup, splits = with_rate(setup, splits, registries, found)
                    config = setup.config
            write_records(run_dir, config, splits, registries)
            if setup.net.quantized is not None:
                setup.net.quantized.save(run_dir.int8)
            facts = identity(config, splits, registries)
            state = RunState(
                weights=setup.weights, identity=facts, lr_find=found, threads=threads,
                recipe=None if recipe is None else dict(recipe),
            )  # fmt: skip
            emit = emitter(run_dir, listeners, [*observers, *trackers])
            with closing(trackers, emit):
                if left:
                    emit("notice", {"text": left})
                return _run(setup, splits, state, run_dir, emit, None)


def _with_int8(
    setup: Setup, splits: Splits, run_dir: RunDir, listeners: Sequence[Listener]
) -> tuple[Setup, Splits, QuantizedPrefix]:
    """Quantize the frozen part of a new run's network, and return it with the run's new parts."""
    for listener in listeners:
        listener(Event("notice", {"text": "quantizes the part that stays frozen to int8 ..."}))
    made = quantized(setup, splits)
    backbone = setup.config.backbone.model_copy(update={"int8": run_dir.int8.absolute()})
    config = setup.config.model_copy(update={"backbone": backbone})
    setup = replace(setup, config=config, tensors=None)
    return setup, replace(splits, notices=(*splits.notices, made.notice)), made


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
        changes: New values of settings that do not affect results, such as the path of the data.
            The run keeps them.
        strict: True: raise if a checkpoint is damaged. False: go back to the checkpoint before it.

    Raises:
        CheckpointError: No checkpoint is intact, or the config, data or plugins have changed.
        ConfigError: A change would affect the result.
    """
    require_one_process()
    run = OpenRun(path, lambda: registries, trackers=True)
    run_dir, config = run.dir, run.config
    if changes:
        config = _changed(run, changes)
    trackers = build_trackers(config, registries["track"])
    with run_dir.locked() as left, ExitStack() as ending:
        emit = emitter(run_dir, listeners, [*observers, *trackers])
        ending.enter_context(closing(trackers, emit))
        saved, notice = checkpoint.latest_intact(run_dir.checkpoints, strict=strict)
        for text in filter(None, (left, notice)):
            emit("notice", {"text": text})
        try:
            require_best(saved)
        except CheckpointError as error:
            if strict:
                raise
            lost = (
                "the best epoch's network is lost, so the run can only finish if a later epoch is "
                f"better: {error}"
            )
            emit("notice", {"text": lost})
        splits = _load_again(config, run_dir)
        state = RunState.from_json(saved.state)
        state.threads = ending.enter_context(using_threads(_threads(config, state, changes, emit)))
        require_same(state.identity, identity(config, splits, registries), run_dir)
        if changes:
            run_dir.write_config(config)
        if saved.is_slim:
            return _slim_result(run_dir, saved, emit)
        setup = build_for(splits, config, registries, weights="none")
        setup.weights = state.weights
        if not state.is_over(config.train.epochs):
            there = len(checkpoint.newest_first(run_dir.checkpoints))
            require_space(run_dir.path, setup, there)
        return _run(setup, splits, state, run_dir, emit, saved)


def _threads(config: RunConfig, state: RunState, changes: Layer | None, emit: Emit) -> int | None:
    """Return the number of threads that a resumed run uses; None for as many as torch has."""
    wished, before = config.train.threads, state.threads
    if before is None or not (changes and changes.sets("train.threads")):
        return before or wished
    if wished not in (None, before) and not state.is_over(config.train.epochs):
        text = (
            f"the run goes on with {plural(wished, 'thread')} instead of {before}, so its result "
            "may differ in the last digits from that of an uninterrupted run"
        )
        emit("notice", {"text": text})
    return wished or before


def _slim_result(run_dir: RunDir, saved: SavedCheckpoint, emit: Emit) -> Result:
    """Return the stored result of a slim run, which is over and cannot be trained further."""
    checkpoint.slim(run_dir.checkpoints, saved, saved.state)  # a kill may have left old checkpoints
    emit("notice", {"text": f"the run is slim ({setting('train.keep', 'slim')}): the optimizer's "
                    "state and all networks but the best epoch's are gone, so nothing is left to "
                    "continue; this is the stored result"})  # fmt: skip
    result: Result = read_sealed(
        run_dir.metrics,
        f"{command('evaluate', run_dir.path)} measures the network; a slim run cannot be resumed",
    )
    return result


def _changed(run: OpenRun, changes: Layer) -> RunConfig:
    """Return a run's config with some changes.

    Raises:
        ConfigError: A change would affect the result.
    """
    layer = run.dir.read_config(trackers=True)
    wrong = [key for key in _changing(run, layer, changes) if key not in RESUMABLE]
    if wrong:
        what = "cannot be changed when a run goes on, because the result would change"
        hint = f"{command('train', config=run.dir.config)} starts a new run with other settings"
        if wrong == ["run_dir"]:
            what = "cannot be changed when a run goes on"
            hint = "move the folder of the run, and resume the run there"
        raise ConfigError(
            what,
            where=", ".join(changes.where(key) for key in wrong),
            allowed=", ".join(setting(key) for key in RESUMABLE),
            hint=hint,
        )
    return resolve(run.registries, layer, changes, where=str(run.dir.config))


def _changing(run: OpenRun, layer: Layer, changes: Layer) -> list[str]:
    """Return the keys to which changes give another value than the run has."""
    where, keys = str(run.dir.config), [key for key, _ in flat(changes)]
    before = resolve(run.registries, layer, where=where)
    try:
        after = resolve(run.registries, layer, changes, where=where)
    except ConfigError:  # such as another policy, which does not know the run's options
        return keys
    one, other = (dict(flat(config.to_values())) for config in (before, after))
    return [key for key in keys if key not in other or one.get(key) != other[key]]


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
            emit("run_start", start_data(trainer))
            trainer.run()
            best = best_network(trainer)
            held_out = embed_held_out(trainer, best)
        calibration = calibrated(trainer, best, held_out[VAL], emit)
        result = {**run_result(trainer, held_out), "calibration": calibration}
        run_dir.write_metrics(result)
        if setup.config.train.keep == "slim":
            newest = checkpoint.newest_first(run_dir.checkpoints)[0]
            last = checkpoint.load_state(newest)
            checkpoint.slim(run_dir.checkpoints, best, last.state)
        monitor = setup.schedule.monitor
        ends = lost(state, monitor), below_baseline(state.untrained, state.best, monitor)
        for notice in filter(None, ends):
            emit("notice", {"text": notice})
        emit("run_end", result)
    if stop.exit_code is not None:
        raise Interrupted(
            f"stopped by {stop.name} when the training was complete; only the report is missing",
            exit_code=stop.exit_code,
            hint=f"{command('report', run_dir.path)} writes the report",
        )
    return result
