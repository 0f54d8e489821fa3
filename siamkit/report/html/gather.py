"""The gatherer: reads the contents of a report. A missing part becomes a notice, not an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siamkit.errors import SiamkitError
from siamkit.evaluation.embedding_map import Map, embedding_map
from siamkit.portable.calibration import Calibration
from siamkit.report.html import timing
from siamkit.report.html.facts import RunFacts, facts_of
from siamkit.report.html.heldout import HeldOutFacts, held_out_facts
from siamkit.runs.calibration import calibrate_hint
from siamkit.runs.held_out import HeldOut
from siamkit.runs.open import OpenRun
from siamkit.runs.seen import Seen, seen_of
from siamkit.words import plural


@dataclass(frozen=True)
class Gathered:
    """The contents of a report.

    Attributes:
        run: The run.
        facts: The facts of the run.
        spent: Seconds by epoch and kind of work.
        metrics: The ``metrics`` of ``metrics.json``; empty without that file.
        config: The text of the run's configuration.
        int8: What is computed in int8, as a sentence without a full stop; empty for nothing.
        held: The facts about the held-out embeddings; None without embeddings.
        why: The reason why there are no held-out embeddings.
        seen: What the run used the embedded images for, such as to choose the best epoch; None
            without embeddings.
        map: The map of the embeddings; None for too few embeddings.
        notices: The notices for the reader.
    """

    run: OpenRun
    facts: RunFacts
    spent: Mapping[int, Mapping[str, float]]
    metrics: Mapping[str, Any]
    config: str
    int8: str
    held: HeldOutFacts | None
    why: str
    seen: Seen | None
    map: Map | None
    notices: tuple[str, ...]


def gather(run: OpenRun) -> Gathered:
    """Read the files of a run."""
    log = run.log
    facts = facts_of(log.events)
    notices = list(facts.notices)
    if log.problem:
        notices.append(f"the event log is left out: {log.problem}")
    if log.damaged:
        lines = plural(log.damaged, "unreadable line")
        notices.append(f"{lines} of events.jsonl left out")
    kept, why = _held_out(run, facts, notices)
    calibration = None if kept is None else _calibration(run, kept, notices)
    held = None if kept is None else held_out_facts(kept, calibration)
    metrics: Mapping[str, Any] = {}
    try:
        metrics = run.metrics
    except SiamkitError as error:
        notices.append(f"the final metrics are left out: {error}")
    if run.config_problem:
        notices.append(f"the configuration may not be the run's own: {run.config_problem}")
    int8 = _int8(run, notices)
    return Gathered(
        run,
        facts,
        timing.spent(log.events),
        metrics,
        run.config_text,
        int8,
        held,
        why,
        None if kept is None else seen_of(run, kept, calibration),
        embedding_map(held.held.embeddings) if held is not None else None,
        tuple(notices),
    )


def _int8(run: OpenRun, notices: list[str]) -> str:
    """Return what is computed in int8."""
    try:
        return "" if (record := run.int8) is None else record.sentence
    except SiamkitError as error:
        notices.append(f"the part in int8 is left out: {error}")
        return ""


def _held_out(run: OpenRun, facts: RunFacts, notices: list[str]) -> tuple[HeldOut | None, str]:
    """Return the embeddings of the test or else the validation images, or why there are none."""
    problem = ""
    for part in ("test", "val"):
        try:
            kept = run.final_held_out(part)
        except SiamkitError as error:
            problem = problem or str(error)
            notices.append(f"the embeddings of the held-out images are left out: {error}")
            continue
        if kept is not None and len(kept.images):
            return kept, problem
    if problem:
        return None, f"The embeddings cannot be read: {problem}"
    if facts.ended:
        return None, "The run has no embeddings of its held-out images by its best network."
    return None, (
        "The held-out images are embedded at the end of a run, and this run is not complete. "
        f"'siamkit train --resume {run.path}' continues it."
    )


def _calibration(run: OpenRun, kept: HeldOut, notices: list[str]) -> Calibration | None:
    """Return the calibration; None, with a notice, if it is missing, damaged or does not fit."""
    why: object = f"{run.dir.calibration}: the file is missing; {calibrate_hint(run.dir)}"
    try:
        if (own := run.calibration_for(kept)) is not None:
            return own
    except SiamkitError as error:
        why = error
    notices.append(f"the threshold is not the run's own: {why}")
    return None
