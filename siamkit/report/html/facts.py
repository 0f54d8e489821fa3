"""The facts of a run, which pure functions collect from the run's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from siamkit.words import plural

LoggedEvent = Mapping[str, Any]
Metrics = Mapping[str, float]

_NAMED = 4

FROZEN, PARTLY, TRAINS = "frozen", "partly", "trains"


@dataclass(frozen=True)
class StageState:
    """The state of a stage in a phase.

    Attributes:
        parameters: The number of parameters in the stage.
        trainable: The number of those parameters that train.
        lr: The stage's learning rate before the schedule scales it.
        norm: The state of the stage's norm layers.
    """

    parameters: int
    trainable: int
    lr: float
    norm: str | None

    @property
    def state(self) -> str:
        """:data:`FROZEN`, :data:`TRAINS`, or :data:`PARTLY` if only some parameters train."""
        if not self.trainable:
            return FROZEN
        return TRAINS if self.trainable == self.parameters else PARTLY


@dataclass(frozen=True)
class Band:
    """A phase: consecutive epochs with one freeze plan.

    Attributes:
        start: The first epoch, counted from 0.
        end: The epoch after the last.
        trainable: The number of parameters that train.
        parameters: The number of parameters of the network.
        stages: The state of each stage by name, in the order of the network.
        engine: The ``engine`` event, which says how the phase was computed; empty if unknown.
    """

    start: int
    end: int
    trainable: int
    parameters: int
    stages: Mapping[str, StageState]
    engine: LoggedEvent = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of the parameters that train."""
        return self.trainable / max(self.parameters, 1)

    @property
    def trained(self) -> list[str]:
        """The names of the stages with trainable parameters."""
        return [name for name, stage in self.stages.items() if stage.trainable]

    @property
    def trained_text(self) -> str:
        """A short text about the stages that train, such as ``layer3 to head``."""
        names, trained = list(self.stages), self.trained
        if not trained:
            return "nothing"
        part = "part of " if any(s.state == PARTLY for s in self.stages.values()) else ""
        if trained == names:
            return f"{part}everything"
        if len(trained) > 2 and trained == names[-len(trained) :]:
            return f"{part}{trained[0]} to {trained[-1]}"
        if len(trained) > _NAMED:
            return f"{part}{len(trained)} of {len(names)} stages"
        return part + ", ".join(trained)


@dataclass(frozen=True)
class Epoch:
    """A finished epoch.

    Attributes:
        number: The number of the epoch, from 0.
        loss: The mean training loss.
        metrics: The metrics on held-out images.
        train_metrics: The metrics on a sample of training images.
        best: Whether the epoch was the best so far.
    """

    number: int
    loss: float
    metrics: Metrics
    train_metrics: Metrics
    best: bool


@dataclass(frozen=True)
class LoggedStep:
    """An optimizer step in the log of a run.

    Attributes:
        at: The progress after the step, in epochs; 2.5 is the middle of the third epoch.
        loss: The loss of this step's batch.
        rates: The learning rate of each stage in this step.
    """

    at: float
    loss: float
    rates: Metrics


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run.

    Attributes:
        start: The latest ``run_start`` event; empty if the run stopped before it.
        untrained: The metrics of the untrained backbone on held-out images.
        epochs: The finished epochs.
        steps: The optimizer steps; a step that was repeated after a crash counts once.
        bands: The phases so far.
        sessions: The number of times the run was started or resumed.
        ended: Whether the run is complete.
        stopped_early: Whether early stopping ended the run.
        notices: The notices, each once, in order.
    """

    start: LoggedEvent
    untrained: Metrics
    epochs: tuple[Epoch, ...]
    steps: tuple[LoggedStep, ...]
    bands: tuple[Band, ...]
    sessions: int
    ended: bool
    stopped_early: bool
    notices: tuple[str, ...]

    @property
    def best(self) -> Epoch | None:
        """The best epoch."""
        return next((e for e in reversed(self.epochs) if e.best), None)

    @property
    def span(self) -> float:
        """The number of epochs that the run completed, including the fraction of the last."""
        reached = [self.steps[-1].at] if self.steps else []
        return max([*reached, *(e.number + 1 for e in self.epochs), 0])


def facts_of(events: Sequence[LoggedEvent]) -> RunFacts:
    """Return the facts of a run from its events, in the order of the log."""
    named = _standing([(str(e["event"]), e) for e in events])
    start = _last(named, "run_start")
    names = [name for name, _ in named]
    last = max((i for i, name in enumerate(names) if name == "run_start"), default=0)
    epochs = {_number(e): _epoch(e) for name, e in named if name == "epoch_end"}
    steps = _steps(e for name, e in named if name == "step")
    reached = max(
        [_number(e) + 1 for name, e in named if name in ("phase_start", "step", "epoch_end")],
        default=0,
    )
    return RunFacts(
        start=start,
        untrained=_numbers(_last(named, "untrained")),
        epochs=tuple(epochs[number] for number in sorted(epochs)),
        steps=steps,
        bands=_bands(named, reached),
        sessions=names.count("run_start"),
        ended="run_end" in names[last:],
        stopped_early="early_stop" in names,
        notices=_notices(named),
    )


def _standing(named: Sequence[tuple[str, LoggedEvent]]) -> list[tuple[str, LoggedEvent]]:
    """Return the events, except those that resuming from an older checkpoint has undone."""
    standing: list[tuple[str, LoggedEvent]] = []
    for name, event in named:
        if name == "run_start":
            start = int(event.get("finished_epochs", 0))
            standing = [(n, e) for n, e in standing if not _undone(n, e, start)]
        standing.append((name, event))
    return standing


def _undone(name: str, event: LoggedEvent, start: int) -> bool:
    if name == "epoch_end":
        return _number(event) >= start
    return name in ("phase_start", "engine", "step") and _number(event) > start


def _last(named: Sequence[tuple[str, LoggedEvent]], wanted: str) -> LoggedEvent:
    return next((event for name, event in reversed(named) if name == wanted), {})


def _numbers(values: LoggedEvent) -> dict[str, float]:
    """Return the metrics among the values of an event."""
    return {k: v for k, v in values.items() if isinstance(v, float) and k != "time"}


def _number(event: LoggedEvent) -> int:
    """Return the epoch of an event, from 0; events count from 1."""
    return int(event["epoch"]) - 1


def _epoch(event: LoggedEvent) -> Epoch:
    return Epoch(
        _number(event),
        event["train_loss"],
        _numbers(event["metrics"]),
        _numbers(event.get("train_metrics") or {}),
        bool(event["best"]),
    )


def _steps(events: Iterable[LoggedEvent]) -> tuple[LoggedStep, ...]:
    """Return the steps in order. A step that was repeated after a crash replaces the first one."""
    steps = {
        e["step"]: LoggedStep(
            _number(e) + e["epoch_step"] / max(e["epoch_steps"], 1),
            e["loss"],
            e.get("rates") or {},
        )
        for e in events
    }
    return tuple(steps[number] for number in sorted(steps))


def _bands(named: Sequence[tuple[str, LoggedEvent]], reached: int) -> tuple[Band, ...]:
    """Return the phases up to the epoch ``reached``.

    A resumed run logs its plan again, from an epoch that may lie within an earlier phase. The later
    record counts, and neighbouring phases with equal stages become one phase.
    """
    stages: dict[str, StageState] = {}
    by_start: dict[int, Band] = {}
    for name, event in named:
        if name == "run_start":
            stages = {}
        elif name == "phase_start":
            stages = {**stages, **{c["stage"]: _stage(c) for c in event["changes"]}}
            start = _number(event)
            by_start[start] = Band(
                start, start, event["trainable_parameters"], event["parameters"], dict(stages)
            )
        elif name == "engine" and by_start:
            start = max(by_start)
            by_start[start] = replace(by_start[start], engine=event)
    starts = sorted(by_start)
    bands: list[Band] = []
    for start, end in zip(starts, [*starts, reached][1:], strict=True):
        band = replace(by_start[start], end=max(end, start))
        if bands and bands[-1].stages == band.stages:
            band = replace(bands.pop(), end=band.end)
        bands.append(band)
    return tuple(band for band in bands if band.end > band.start)


def _stage(change: LoggedEvent) -> StageState:
    return StageState(
        change["parameters"], int(change["trainable"] or 0), change["lr"], change.get("norm")
    )


def _notices(named: Sequence[tuple[str, LoggedEvent]]) -> tuple[str, ...]:
    notices: list[str] = []
    for name, event in named:
        if name == "run_start":
            notices += map(str, event.get("notices") or [])
        elif name == "notice":
            notices.append(str(event["text"]))
        elif name == "non_finite":
            notices.append(
                f"the loss or a gradient was not finite at step {event['step'] + 1}; the batch of "
                f"{plural(len(event['samples']), 'image')} included "
                f"{', '.join(map(str, event['samples'][:3]))}"
            )
    return tuple(dict.fromkeys(notices))
