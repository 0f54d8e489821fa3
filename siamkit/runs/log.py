"""The event log's reader, which leaves damaged lines out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from siamkit.errors import CheckpointError
from siamkit.files import is_there, read_bytes, reading
from siamkit.json_files import SEAL, parsed, unsealed

LoggedEvent = dict[str, Any]
"""``time`` (seconds since 1970), ``event`` (its name), and the data of one event."""

_Count = Annotated[int, Field(ge=0)]
_Numbers = dict[str, float | None]


class _Event(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    time: float
    event: str


class _Images(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    how: str
    train: str
    val: str


class _RunStart(_Event):
    start_epoch: NotRequired[_Count]
    config: NotRequired[dict[str, Any]]
    data: NotRequired[_Images]
    notices: NotRequired[list[str]]


class _Change(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    stage: str
    parameters: _Count
    trainable: _Count | None
    lr: float
    norm: NotRequired[str | None]


class _PhaseStart(_Event):
    epoch: _Count
    trainable_parameters: _Count
    parameters: _Count
    changes: list[_Change]


class _Engine(_Event):
    epoch: _Count
    boundary: NotRequired[str | None]
    kernel: NotRequired[str | None]
    prefix_seconds: NotRequired[float]


class _Step(_Event):
    epoch: _Count
    step: _Count
    epoch_step: _Count
    epoch_steps: _Count
    loss: float
    rates: NotRequired[_Numbers]
    input_seconds: NotRequired[float]
    images_per_second: NotRequired[float]
    seconds: NotRequired[float]


class _EpochEnd(_Event):
    epoch: _Count
    train_loss: float
    metrics: _Numbers
    train_metrics: NotRequired[_Numbers | None]
    best: bool


class _Notice(_Event):
    text: str


class _NonFinite(_Event):
    step: _Count
    samples: list[Any]


_ANY = TypeAdapter[Any](_Event)
_SHAPES = {
    name: TypeAdapter[Any](shape)
    for name, shape in {
        "run_start": _RunStart,
        "phase_start": _PhaseStart,
        "engine": _Engine,
        "step": _Step,
        "epoch_end": _EpochEnd,
        "notice": _Notice,
        "non_finite": _NonFinite,
    }.items()
}
"""What the readers of an event rely on, by its name. Other keys may have any value."""


class Log:
    """The events of a run.

    Args:
        events: Each with ``time`` (seconds since 1970) and ``event``, its name.
        damaged: The number of lines that are not events, such as one that a crash cut off.
        problem: The reason why the whole file cannot be read; None if it can, or does not exist.
    """

    def __init__(
        self,
        events: tuple[LoggedEvent, ...] = (),
        damaged: int = 0,
        problem: str | None = None,
    ) -> None:
        self.events, self.damaged, self.problem = events, damaged, problem


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
    values = parsed(line)
    if isinstance(values, dict) and SEAL in values:
        values = unsealed(values, "line")
    event: LoggedEvent = _ANY.validate_python(values)
    shape = _SHAPES.get(event["event"])
    return event if shape is None else shape.validate_python(event)
