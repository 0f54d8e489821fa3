"""The records of the harness: one line of JSON per case, so that a long form can be continued."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """The record of a case.

    Attributes:
        kind: ``kill``, ``damage``, ``disk`` or ``fuzz``.
        case: The number or name of the case within its kind.
        group: The row of the page's table that the case counts in.
        done: What was done.
        happened: What happened.
        problem: What should not have happened; None if all is well.
        count: How many kills, damaged files or inputs the case stands for.
    """

    kind: str
    case: str
    group: str
    done: str
    happened: str
    problem: str | None = None
    count: int = 1

    def __str__(self) -> str:
        mark = "ok " if self.problem is None else "BAD"
        return f"{mark} {self.kind} {self.case}: {self.done}: {self.happened}"


class Journal:
    """A file of records, to which new ones are appended."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records = []
        if file.exists():
            self.records = [Record(**json.loads(line)) for line in file.read_text().splitlines()]

    def has(self, kind: str, case: str) -> bool:
        """Return whether a case was recorded."""
        return any((r.kind, r.case) == (kind, case) for r in self.records)

    def add(self, record: Record) -> None:
        """Append a record."""
        self.records.append(record)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def problems(records: Iterable[Record]) -> list[Record]:
    """Return the records of cases in which something happened that should not have."""
    return [record for record in records if record.problem is not None]
