"""The timing of a run: pure functions that assign each second between events to a kind of work.

The time before the first event of a process, and the time between two processes, does not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LoggedEvent = Mapping[str, Any]

SETUP, FILL, WAIT, PREFIX, SUFFIX, STEPS, EVALUATION, SAVING = (
    "setup", "fill", "wait", "prefix", "suffix", "steps", "evaluation", "saving"
)  # fmt: skip
KINDS = {
    SETUP: "Setup: start, choosing what to cache, measuring",
    FILL: "Frozen part: filling the cache",
    WAIT: "Waiting for images or cached features",
    PREFIX: "Frozen part: running for every batch",
    SUFFIX: "Trainable part: forward, backward, update",
    STEPS: "Training steps (no details logged)",
    EVALUATION: "Evaluation",
    SAVING: "Saving checkpoints",
}
"""The kinds of work, in the order of the chart."""

_ENDS = {
    "phase_start": SETUP,
    "engine": SETUP,
    "fill": FILL,
    "untrained": EVALUATION,
    "epoch_end": EVALUATION,
    "run_end": EVALUATION,
    "checkpoint": SAVING,
    "early_stop": SAVING,
}
"""The kind of work that ends with an event, by the name of the event."""


def spent(events: Sequence[LoggedEvent]) -> dict[int, dict[str, float]]:
    """Return the seconds by epoch (from 0) and kind of work.

    Work before the first step counts towards the first epoch. Work after the last step (embedding
    the held-out images) counts towards the last epoch.
    """
    sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for epoch, kind, seconds in _spans(events):
        sums[epoch][kind] += seconds
    return {epoch: dict(kinds) for epoch, kinds in sorted(sums.items())}


def totals(by_epoch: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return the seconds of each kind of work that took time, in the order of :data:`KINDS`."""
    sums = {k: sum(kinds.get(k, 0.0) for kinds in by_epoch.values()) for k in KINDS}
    return {kind: seconds for kind, seconds in sums.items() if seconds > 0}


def _spans(events: Sequence[LoggedEvent]) -> Iterator[tuple[int, str, float]]:
    last: float | None = None
    epoch = 0
    engine: LoggedEvent = {}
    for event in events:
        name = event["event"]
        if name == "run_start":
            last, epoch = event["time"], int(event.get("finished_epochs", 0))
            continue
        if name not in _ENDS and name != "step":
            continue  # a notice does not end any work
        if name in ("phase_start", "engine", "step", "epoch_end"):
            epoch = int(event["epoch"]) - 1
        if name == "engine":
            engine = event
        # A clock that was set back must not give negative times.
        seconds = 0.0 if last is None else max(0.0, event["time"] - last)
        last = event["time"]
        if name == "step":
            yield from ((epoch, kind, part) for kind, part in _step(event, engine, seconds).items())
        else:
            yield epoch, _ENDS[name], seconds


def _step(event: LoggedEvent, engine: LoggedEvent, seconds: float) -> dict[str, float]:
    """Return a step's time by kind of work. That of the frozen part is estimated per image."""
    if "input_seconds" not in event:
        return {STEPS: seconds}
    waited = min(float(event["input_seconds"]), seconds)
    prefix = 0.0
    if engine.get("mode") == "live":
        images = float(event["images_per_second"]) * float(event["seconds"])
        prefix = min(waited, images * float(engine.get("prefix_seconds", 0.0)))
    return {WAIT: waited - prefix, PREFIX: prefix, SUFFIX: seconds - waited}
