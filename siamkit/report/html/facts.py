"""The facts of a run: what its events say happened. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

LoggedEvent = Mapping[str, Any]
Metrics = Mapping[str, float]

_NAMED = 4

FROZEN, PARTLY, TRAINS = "frozen", "partly", "trains"


@dataclass(frozen=True)
class StageState:
    """A stage in a phase.

    Attributes:
        parameters: How many it has.
        trainable: How many of them train.
        lr: Its rate before the schedule.
        norm: What its norm layers do.
    """

    parameters: int
    trainable: int
    lr: float
    norm: str | None

    @property
    def state(self) -> str:
        """Whether it trains, in part or at all."""
        if not self.trainable:
            return FROZEN
        return TRAINS if self.trainable == self.parameters else PARTLY


@dataclass(frozen=True)
class Band:
    """A phase: epochs with one plan.

    Attributes:
        start: Its first epoch, from 0.
        end: The epoch after its last.
        trainable: Parameters that train.
        parameters: All there are.
        stages: The stages, in the order of the network.
        engine: How it was computed: the ``engine`` event; empty if unknown.
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
        """The names of the stages of which something trains."""
        return [name for name, stage in self.stages.items() if stage.trainable]

    @property
    def what(self) -> str:
        """What trains, in a few words."""
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
        number: From 0.
        loss: The mean training loss.
        metrics: Of held-out classes.
        train_metrics: Of as many training classes.
        best: Whether it was the best so far.
    """

    number: int
    loss: float
    metrics: Metrics
    train_metrics: Metrics
    best: bool


@dataclass(frozen=True)
class Step:
    """An optimizer step.

    Attributes:
        at: When, in epochs.
        loss: Its loss.
        rates: By stage, the rate.
    """

    at: float
    loss: float
    rates: Metrics


@dataclass(frozen=True)
class Facts:
    """What happened in a run.

    Attributes:
        start: The latest ``run_start`` event; empty if the run never got so far.
        untrained: Held-out metrics of the backbone's own features.
        epochs: The finished epochs.
        steps: The optimizer steps that count: those that were done again after a crash count once.
        bands: The phases so far.
        sessions: How often the run was started or resumed.
        ended: Whether it came to its end.
        stopped_early: Whether early stopping ended it.
        notices: What was worth knowing, each once, in order.
    """

    start: LoggedEvent
    untrained: Metrics
    epochs: tuple[Epoch, ...]
    steps: tuple[Step, ...]
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
        """How far the run got, in epochs."""
        reached = [self.steps[-1].at] if self.steps else []
        return max([*reached, *(e.number + 1 for e in self.epochs), 0])


def facts_of(events: Sequence[LoggedEvent]) -> Facts:
    """Return what happened, from events in the order in which they were logged."""
    named = _standing([(str(e["event"]), e) for e in events])
    start = _last(named, "run_start")
    names = [name for name, _ in named]
    last = max((i for i, name in enumerate(names) if name == "run_start"), default=0)
    epochs = {e["epoch"]: _epoch(e) for name, e in named if name == "epoch_end"}
    steps = _steps(e for name, e in named if name == "step")
    reached = max(
        [int(e["epoch"]) + 1 for name, e in named if name in ("phase_start", "step", "epoch_end")],
        default=0,
    )
    return Facts(
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
    """Leave out what was undone: a run that is resumed may go back to an older checkpoint."""
    standing: list[tuple[str, LoggedEvent]] = []
    for name, event in named:
        if name == "run_start":
            start = int(event.get("start_epoch", 0))
            standing = [(n, e) for n, e in standing if not _undone(n, e, start)]
        standing.append((name, event))
    return standing


def _undone(name: str, event: LoggedEvent, start: int) -> bool:
    if name == "epoch_end":
        return bool(event["epoch"] >= start)
    return name in ("phase_start", "engine", "step") and bool(event["epoch"] > start)


def _last(named: Sequence[tuple[str, LoggedEvent]], wanted: str) -> LoggedEvent:
    return next((event for name, event in reversed(named) if name == wanted), {})


def _numbers(values: LoggedEvent) -> dict[str, float]:
    """Return the metrics among the values of an event."""
    return {k: v for k, v in values.items() if isinstance(v, float) and k != "time"}


def _epoch(event: LoggedEvent) -> Epoch:
    return Epoch(
        event["epoch"],
        event["train_loss"],
        _numbers(event["metrics"]),
        _numbers(event.get("train_metrics") or {}),
        bool(event["best"]),
    )


def _steps(events: Iterable[LoggedEvent]) -> tuple[Step, ...]:
    """Return the steps by their number; what was done again replaces what a crash undid."""
    steps = {
        e["step"]: Step(
            e["epoch"] + e["epoch_step"] / max(e["epoch_steps"], 1),
            e["loss"],
            e.get("rates") or {},
        )
        for e in events
    }
    return tuple(steps[number] for number in sorted(steps))


def _bands(named: Sequence[tuple[str, LoggedEvent]], reached: int) -> tuple[Band, ...]:
    """Return the phases up to the epoch ``reached``.

    A resumed run logs its plan again, from an epoch that may lie in a phase that was logged before:
    the later one counts, and equal neighbours are one phase.
    """
    stages: dict[str, StageState] = {}
    by_start: dict[int, Band] = {}
    for name, event in named:
        if name == "run_start":
            stages = {}
        elif name == "phase_start":
            stages = {**stages, **{c["stage"]: _stage(c) for c in event["changes"]}}
            start = int(event["epoch"])
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
                f"the loss or a gradient was not finite at step {event['step'] + 1}; "
                f"{len(event['samples'])} images were in the batch, among them "
                f"{', '.join(map(str, event['samples'][:3]))}"
            )
    return tuple(dict.fromkeys(notices))
