"""Reading a run's event log, whatever state the run left it in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """The events of a run.

    Attributes:
        events: Each with ``time`` (seconds since 1970) and ``event``, its name.
        damaged: Lines that are no event, such as one that a crash cut off.
    """

    events: tuple[Record, ...] = ()
    damaged: int = 0


def read_log(path: Path) -> Log:
    """Return the events in ``path``; none if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Log()
    events, damaged = [], 0
    for line in text.splitlines():
        try:
            record = json.loads(line)
            events.append({**record, "time": float(record["time"]), "event": str(record["event"])})
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
    return Log(tuple(events), damaged)
