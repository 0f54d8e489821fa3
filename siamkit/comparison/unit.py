"""One run of an arm: trained like any other run, and measured on the held-out fold."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from siamkit.comparison.arms import Arm, keeping
from siamkit.comparison.plan import Plan, Round
from siamkit.comparison.results import ArmResult, totals_of
from siamkit.config import RESUMABLE, Layer, RunConfig, flat, nested, resolve
from siamkit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FrozenDriftError,
    NoMemoryError,
    NonFiniteError,
    PluginError,
    SiamkitError,
    is_out_of_memory,
)
from siamkit.evaluation.retrieval import retrieval_by_class
from siamkit.registry import Registry
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import LoggedEvent, read_log
from siamkit.training import fit as training
from siamkit.training.loading import TEST, VAL
from siamkit.training.results import Result

FAILURES = (NonFiniteError, PluginError, ConfigError, FrozenDriftError, NoMemoryError)
"""The errors of a run that say something about its arm. Others end a comparison."""


def config_of(
    base: RunConfig,
    registries: Mapping[str, Registry],
    arm: Arm,
    *others: Mapping[str, Any],
    place: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the config of a run of an arm.

    Args:
        base: The config of all arms.
        registries: The registry of each component section.
        arm: The arm.
        *others: Further values by dotted key, which override those of the arm.
        place: Where the run's data and directory are, by dotted key.

    Raises:
        ConfigError: A name or a value is wrong.
    """
    layers = [base.to_values(), arm.layer, *map(nested, others), nested(place or {})]
    return resolve(registries, *layers, where=f"arm {arm.name!r}")


def variant_of(
    plan: Plan,
    base: RunConfig,
    registries: Mapping[str, Registry],
    arm: Arm,
    tuned: Mapping[str, Any],
    *,
    place: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the config of a run of an arm with tuned values.

    If these choose a component, the user's options of it apply, as to what an arm chooses.

    Args:
        plan: The plan of the comparison.
        base: The config of all arms.
        registries: The registry of each component section.
        arm: The arm.
        tuned: The tuned values by dotted key; empty for an arm that is not trained.
        place: As for :func:`config_of`.

    Raises:
        ConfigError: A name or a value is wrong.
    """
    whole = replace(arm, values={**arm.values, **tuned})
    if arm.trains:
        whole = keeping(whole, plan.own, registries)
    return config_of(base, registries, whole, place=place)


def place_of(table: Path, root: Path, turn: Round, run_dir: Path) -> dict[str, Any]:
    """Return the values that make a run one of a comparison, by dotted key.

    Images that cannot be used are left out once, before the folds, so that all arms have the same
    images. In a run, they are an error.

    Args:
        table: The table of the round's images.
        root: The folder that the paths in the table are relative to.
        turn: The round.
        run_dir: The directory of the run.
    """
    return {
        "data.path": str(table),
        "data.root": str(root),
        "data.path_column": None,
        "data.label_column": None,
        "data.folds": None,
        "data.fold": 0,
        "data.on_unreadable": "error",  # the table holds usable images only, so headers are enough
        "train.seed": turn.seed,
        "run_dir": str(run_dir),
        "report": False,
        "track": [],
    }


def run_arm(
    configs: Sequence[RunConfig],
    variants: Sequence[Mapping[str, Any]],
    registries: Mapping[str, Registry],
    metric: str,
    listeners: Sequence[Listener],
) -> ArmResult:
    """Train one run of an arm for each variant, and return what the best one gives.

    A run that was interrupted goes on. A variant that cannot be trained is not chosen.

    Args:
        configs: The config of each variant.
        variants: The tuned values of each variant, by dotted key.
        registries: The registry of each component section, and of ``track``.
        metric: The metric on the validation images by which a variant is chosen.
        listeners: Called with the events of the runs.

    Raises:
        SiamkitError: A run failed.
            If every variant failed, it is the error of the first one.
    """
    spans: list[float] = []
    results: dict[int, Result] = {}
    failed: dict[int, SiamkitError] = {}
    runs = [RunDir(config.run_dir) for config in configs if config.run_dir is not None]
    for number, (run, config) in enumerate(zip(runs, configs, strict=True)):
        before, begun = _spans(read_log(run.events).events), time.perf_counter()
        try:
            results[number] = _trained(run, config, registries, listeners)
        except FAILURES as error:
            # The tracebacks would hold the network in memory while the next variant trains.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            failed[number] = error
        spans.append(before + time.perf_counter() - begun)
    if not results:
        raise failed[0]
    scores = {number: result["metrics"]["best"][metric] for number, result in results.items()}
    chosen = max(results, key=lambda number: (scores[number], -number))
    result, run = results[chosen], RunDir(Path(results[chosen]["run_dir"]))
    filling = sum(map(_filling, runs))
    events = read_log(run.events).events
    start = next(event for event in events if event["event"] == "run_start")
    steps = int(result["epochs"]) * int(start["steps_per_epoch"])
    return ArmResult(
        _measured(run, VAL),
        _measured(run, TEST),
        sum(spans) - filling,
        filling,
        _evaluating(events),
        result["epochs"],
        int(result["metrics"]["best"]["epoch"]),
        steps,
        int(result["epochs"]) * int(start["images_per_epoch"]),
        tuple(_phases(events)),
        dict(variants[chosen]),
        (*_notices(events), *(_not_chosen(variants[i], error) for i, error in failed.items())),
    )


def _not_chosen(values: Mapping[str, Any], error: SiamkitError) -> str:
    given = ", ".join(f"{key}={value}" for key, value in values.items())
    return f"{given} was not chosen, because the training failed with it: {error.what}"


def _spans(events: Sequence[LoggedEvent]) -> float:
    """Return the seconds from the first to the last event of each session of a run.

    A session that goes on after a kill may tell of it before its start, hours after the last event
    of the one before. So a notice at the end of a session does not count.
    """
    total, first, last = 0.0, None, 0.0
    for event in events:
        at = float(event["time"])
        if event["event"] == "run_start" or first is None:
            total += 0.0 if first is None else last - first
            first = last = at
        elif event["event"] != "notice":
            last = at
    return total + (0.0 if first is None else last - first)


def _filling(run: RunDir) -> float:
    """Return the seconds in which a run computed features and stored them."""
    fills = [e for e in read_log(run.events).events if e["event"] == "fill"]
    return sum(float(e["seconds"]) for e in fills if e["done"] == e["total"])


def _evaluating(events: Sequence[LoggedEvent]) -> float:
    """Return the seconds of the evaluation after each epoch, of which the last time counts."""
    ends = {event["epoch"]: event for event in events if event["event"] == "epoch_end"}
    return sum(
        float(e.get("seconds", 0.0)) - float(e.get("train_seconds", 0.0)) for e in ends.values()
    )


def _phases(events: Sequence[LoggedEvent]) -> Iterator[dict[str, Any]]:
    """Yield the epoch from which a set of stages trains, and its parameters."""
    seen: set[int] = set()
    trains: dict[str, bool] = {}
    for event in events:
        if event["event"] == "phase_start" and event["epoch"] not in seen:
            seen.add(event["epoch"])
            trains |= {c["stage"]: bool(c["trainable"]) for c in event["changes"]}
            yield {
                "first_epoch": event["epoch"],
                "trainable": event["trainable_parameters"],
                "parameters": event["parameters"],
                "stages": [stage for stage, on in trains.items() if on],
            }


def _notices(events: Sequence[LoggedEvent]) -> list[str]:
    """Return the notices of a run that say more than how it went."""
    texts = []
    for event in events:
        if event["event"] == "notice" and not event.get("routine"):
            texts.append(str(event["text"]))
        elif event["event"] == "run_start":
            texts += event["notices"]
    return list(dict.fromkeys(texts))


def _trained(
    run: RunDir,
    config: RunConfig,
    registries: Mapping[str, Registry],
    listeners: Sequence[Listener],
) -> Result:
    try:
        return _begun_or_continued(run, config, registries, listeners)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    raise NoMemoryError("out of memory")  # here, it does not hold what filled the memory


def _begun_or_continued(
    run: RunDir,
    config: RunConfig,
    registries: Mapping[str, Registry],
    listeners: Sequence[Listener],
) -> Result:
    # The command may have been repeated with other threads, workers or places.
    values = {key: value for key, value in flat(config.to_values()) if key in RESUMABLE}
    changes = Layer(nested(values), lambda key: key)
    try:
        if run.has_begun:
            _require_same_length(run, config)
            return training.resume(run.path, registries, listeners, changes=changes)
    except (CheckpointError, ConfigError, DataError):
        # The run is damaged or has another length, or its data was moved: only time is lost.
        shutil.rmtree(run.path)
    return training.fit(config, registries, listeners, restart=True)


def _require_same_length(run: RunDir, config: RunConfig) -> None:
    """Check that a run has the epochs of the config, which change if times are measured again."""
    epochs = dict(flat(run.read_config())).get("train.epochs")
    if epochs != config.train.epochs:
        what = "the run has another number of epochs"
        raise CheckpointError(what, where=str(run.config), got=epochs)


def _measured(run: RunDir, part: str) -> dict[str, Any]:
    held = HeldOut.load(run, part)
    if held is None:
        raise CheckpointError("the run has no embeddings", where=str(HeldOut.file(run, part)))
    return totals_of(retrieval_by_class(held.embeddings, held.images))
