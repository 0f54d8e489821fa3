"""Reading what a report is made of. What is missing is told, and does not fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamkit.errors import SiamkitError
from siamkit.report.html import timing
from siamkit.report.html.embedding_map import Map, embedding_map
from siamkit.report.html.facts import Facts, facts_of
from siamkit.report.html.heldout import HeldOutFacts, held_out_facts
from siamkit.report.html.log import read_log
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Gathered:
    """What a report is made of.

    Attributes:
        run: The run.
        facts: What happened.
        spent: Seconds by epoch and kind of work.
        metrics: The ``metrics`` of ``metrics.json``; empty without one.
        config: The run's configuration as it is written.
        held: What the held-out embeddings say; None without any.
        why: Why there are none.
        map: The map of them; None for too few.
        notices: What the reader should know.
    """

    run: RunDir
    facts: Facts
    spent: Mapping[int, Mapping[str, float]]
    metrics: Mapping[str, Any]
    config: str
    held: HeldOutFacts | None
    why: str
    map: Map | None
    notices: tuple[str, ...]


def gather(run: RunDir) -> Gathered:
    """Read the files of a run."""
    log = read_log(run.events)
    facts = facts_of(log.events)
    notices = list(facts.notices)
    if log.damaged:
        lines = "a line" if log.damaged == 1 else f"{log.damaged} lines"
        notices.append(f"{lines} of events.jsonl could not be read and is left out")
    held, why = _held_out(run, facts)
    return Gathered(
        run,
        facts,
        timing.spent(log.events),
        _json(run.metrics).get("metrics") or {},
        _text(run.config),
        held,
        why,
        embedding_map(held.held.embeddings) if held is not None else None,
        tuple(notices),
    )


def _held_out(run: RunDir, facts: Facts) -> tuple[HeldOutFacts | None, str]:
    """Return what the test images say, or else the validation images, or why neither does."""
    problem = ""
    for part in ("test", "val"):
        try:
            found = HeldOut.load(run, part)
        except SiamkitError as error:
            problem = problem or str(error)
            continue
        if found is not None and len(found.images):
            return held_out_facts(found, _json(run.path / CALIBRATION)), problem
    if problem:
        return None, f"The embeddings cannot be read: {problem}"
    if facts.ended:
        return None, "The run has no embeddings of its held-out images: they were removed."
    return None, (
        "The held-out images are embedded at the end of a run, and this one has not come to it. "
        f"'siamkit train --resume {run.path}' goes on with it."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
