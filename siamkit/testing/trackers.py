"""The check of trackers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from siamkit.interfaces import Event
from siamkit.testing.common import Expect, Values, checked_entry

_METRICS = {"recall@1": 0.5, "map@r": 0.25}
_CACHED = {"mode": "cached", "reason": "it saves time", "boundary": "layer4", "kernel": "eager"}


def check_tracker(name: str, options: Values | None = None) -> None:
    """Check a tracker by telling it of a run, of that run resumed, and of one that never started.

    It is told of short but complete runs in a temporary folder, so one that sends what it is told
    should be given a place that doesn't matter by ``options``.

    Args:
        name: The registered name.
        options: Option values, where the entry's own defaults don't do.
    """
    entry, validated, expect = checked_entry("trackers", "tracker", name, options)

    def build() -> Callable[[Event], object]:
        tracker = entry.build(validated)
        expect(callable(tracker), "build to return something to call with an event", tracker)
        return tracker  # type: ignore[no-any-return]

    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_dir.mkdir()
        _close(build(), expect.within("a run that never started"))
        expect(
            not any(run_dir.iterdir()),
            "nothing written before 'run_start'",
            list(run_dir.iterdir()),
        )
        for start in (0, 1):
            within = expect.within("a resumed run" if start else "a run")
            tracker = build()
            for event in run_events(run_dir, start):
                try:
                    tracker(event)
                except Exception as error:
                    raise within.failure(f"no error at {event.name!r}", repr(error)) from error
            _close(tracker, within)


def _close(tracker: Callable[[Event], object], expect: Expect) -> None:
    close = getattr(tracker, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception as error:
        raise expect.failure("no error in close()", repr(error)) from error


def run_events(run_dir: Path, start: int = 0) -> Iterator[Event]:
    """Yield the events of a run of two epochs of two steps each, one of them of a name to come.

    Args:
        run_dir: Its folder.
        start: The epoch that it goes on from; 0 for the start.
    """
    config = {
        "data": {"path": "sample"},
        "backbone": {"name": "resnet50"},
        "train": {"epochs": 2, "monitor": "recall@1"},
        "track": [],
    }
    yield Event("notice", {"text": "the newest checkpoint is damaged; this one is the one before"})
    yield Event(
        "run_start",
        {
            "run_dir": str(run_dir), "config": config, "weights": "random", "data": {},
            "notices": ["class '[/bold]' has one image"], "versions": {"siamkit": "0"},
            "epochs": 2, "steps_per_epoch": 2, "device": "cpu",
            "start_epoch": start, "start_step": 2 * start,
        },
    )  # fmt: skip
    for epoch in range(start, 2):
        yield Event(
            "phase_start",
            {
                "epoch": epoch, "trainable_parameters": 64, "parameters": 128,
                "changes": [_change("layer4", epoch), _change("head", 1)],
                "reason": "policy 'stages'",
            },
        )  # fmt: skip
        yield Event("fill", {"done": 4, "total": 4, "seconds": 0.1})
        yield Event("engine", {"epoch": epoch, **_CACHED})
        if epoch == 0:
            yield Event("untrained", _METRICS)
        for step in (2 * epoch + 1, 2 * epoch + 2):
            yield Event("step", _step(step, epoch))
        yield Event(
            "epoch_end",
            {
                "epoch": epoch, "epochs": 2, "train_loss": 0.5, "metrics": _METRICS,
                "train_metrics": _METRICS, "best": True, "train_seconds": 1.0, "seconds": 1.5,
            },
        )  # fmt: skip
        yield Event("checkpoint", {"path": "x", "epoch": epoch + 1, "best": True})
    yield Event("early_stop", {"epoch": 1, "best_epoch": 0})
    yield Event("something_new", {})
    yield Event("run_end", {"run_dir": str(run_dir), "epochs": 2, "phases": [], "metrics": {},
                            "stopped_early": True, "history": [], "calibration": None})  # fmt: skip


def _change(stage: str, trains: int) -> dict[str, Any]:
    return {"stage": stage, "parameters": 64, "trainable": 64 * trains, "was": None,
            "norm": "affine" if trains else "frozen", "lr": 1e-3}  # fmt: skip


def _step(step: int, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "step": step, "steps": 4, "epoch_step": step - 2 * epoch, "epoch_steps": 2,
        "loss": 1.0 / step, "lr": 1e-3, "rates": {"head": 1e-3}, "images_per_second": 10.0,
        "seconds": 0.1, "input_seconds": 0.05,
    }  # fmt: skip
