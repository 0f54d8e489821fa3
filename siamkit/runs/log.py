"""The event log's reader, which skips damaged lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LoggedEvent = dict[str, Any]
"""``time`` (seconds since 1970), ``event`` (its name), and the data of one event."""


@dataclass(frozen=True)
class Log:
    """The events of a run.

    Attributes:
        events: Each with ``time`` (seconds since 1970) and ``event``, its name.
        damaged: The number of lines that are not events, such as one that a crash cut off.
    """

    events: tuple[LoggedEvent, ...] = ()
    damaged: int = 0


def read_log(path: Path) -> Log:
    """Return the events in ``path``; none if the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Log()
    events, damaged = [], 0
    for line in text.splitlines():
        try:
            event = json.loads(line)
            events.append({**event, "time": float(event["time"]), "event": str(event["event"])})
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
    return Log(tuple(events), damaged)
