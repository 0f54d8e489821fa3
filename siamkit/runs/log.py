"""The event log's reader, which leaves damaged lines out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siamkit.errors import CheckpointError
from siamkit.files import is_there, read_bytes, reading
from siamkit.json_files import parsed, unsealed

LoggedEvent = dict[str, Any]
"""``time`` (seconds since 1970), ``event`` (its name), and the data of one event."""

_Count = Annotated[int, Field(ge=0)]
_Numbers = dict[str, float | None]


class _Event(BaseModel):
    model_config = ConfigDict(strict=True)

    time: float
    event: str


class _Images(BaseModel):
    model_config = ConfigDict(strict=True)

    how: str
    train: str
    val: str


class _RunStart(_Event):
    finished_epochs: _Count = 0
    config: dict[str, Any] = {}
    data: _Images | None = None
    notices: list[str] = []


class _Change(BaseModel):
    model_config = ConfigDict(strict=True)

    stage: str
    parameters: _Count
    trainable: _Count | None
    lr: float
    norm: str | None = None


class _PhaseStart(_Event):
    epoch: _Count
    trainable_parameters: _Count
    parameters: _Count
    changes: list[_Change]


class _Engine(_Event):
    epoch: _Count
    boundary: str | None = None
    kernel: str | None = None
    prefix_seconds: float = 0.0


class _Step(_Event):
    epoch: _Count
    step: _Count
    epoch_step: _Count
    epoch_steps: _Count
    loss: float
    rates: _Numbers = {}
    input_seconds: float = 0.0
    images_per_second: float = 0.0
    seconds: float = 0.0


class _EpochEnd(_Event):
    epoch: _Count
    train_loss: float
    metrics: _Numbers
    train_metrics: _Numbers | None = None
    best: bool


class _Notice(_Event):
    text: str
    routine: bool = False


class _NonFinite(_Event):
    step: _Count
    samples: list[Any]


_SHAPES: dict[str, type[BaseModel]] = {
    "run_start": _RunStart,
    "phase_start": _PhaseStart,
    "engine": _Engine,
    "step": _Step,
    "epoch_end": _EpochEnd,
    "notice": _Notice,
    "non_finite": _NonFinite,
}
"""The keys that readers of an event rely on, by the event's name. Other keys may have any value."""


@dataclass(frozen=True)
class Log:
    """The events of a run.

    Attributes:
        events: Each with ``time`` (seconds since 1970) and ``event``, its name.
        damaged: The number of lines that are not events, such as one that a crash cut off.
        problem: The reason why the whole file cannot be read; None if it can, or does not exist.
    """

    events: tuple[LoggedEvent, ...] = ()
    damaged: int = 0
    problem: str | None = None


def read_log(path: Path) -> Log:
    """Return the events in ``path``; none if it does not exist or cannot be read."""
    try:
        with reading(path):
            if not is_there(path):
                return Log()
            text = read_bytes(path).decode(errors="replace")
    except CheckpointError as error:
        return Log(problem=str(error))
    events, damaged = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                events.append(_event(line))
            except (ValueError, ValidationError, CheckpointError):
                damaged += 1
    return Log(tuple(events), damaged)


def _event(line: str) -> LoggedEvent:
    values = unsealed(parsed(line), "line")
    _Event.model_validate(values)
    event: LoggedEvent = values
    if (shape := _SHAPES.get(event["event"])) is not None:
        shape.model_validate(event)
    return event
