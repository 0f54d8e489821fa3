"""The check of trackers, and of implementations of the hook ``siamkit_event``."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from siamkit.interfaces import Event
from siamkit.testing.common import Expect, Values
from siamkit.testing.subjects import checked_entry, conformance

Watch = Callable[[Event], object]

_LABELLED = {"recall@1": 0.5, "map@r": 0.25}
_PAIRED = {"auc": 0.5, "eer": 0.25}
_MARK = 0.123456789
"""A value of the first epoch only. The check looks for it in the files that a tracker writes."""
_CACHED = {"mode": "cached", "reason": "it saves time", "boundary": "layer4", "kernel": "eager"}
_LEFT_OUT = "It would be disabled for the rest of the run, and later events would be missing."
_THREAD_SECONDS = 0.5


@conformance
def check_tracker(given: str | Watch, options: Values | None = None) -> None:
    """Check a tracker with the events of complete, resumed, interrupted and unstarted runs.

    The runs are short. During the check, the current folder is a temporary one. If the tracker
    sends events to a service, use ``options`` to give it a harmless target.

    Args:
        given: The registered name, or a function of an event, as in ``siamkit.fit(listeners=...)``.
            Each run gets a copy.
        options: Option values of a named tracker, if the defaults are unsuitable.
    """
    entry, validated, expect = checked_entry("trackers", given, options)

    def build() -> Watch:
        with expect.during("in build", "Training would not start."):
            tracker = entry.build(validated)
        expect(callable(tracker), "build to return a callable that takes an event", tracker,
               "Training would be refused.")  # fmt: skip
        return tracker  # type: ignore[no-any-return]

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        threads = set(threading.enumerate())
        run_dir = Path(folder) / "run"
        run_dir.mkdir()
        idle = build()
        _expect_nothing(Path(folder), expect.within("build"))
        _close(idle, expect.within("a run that never started"))
        _expect_nothing(Path(folder), expect.within("a run that never started"))
        _follow(build(), run_events(run_dir), expect.within("a run"))
        wrote = _marked(run_dir)
        _follow(build(), run_events(run_dir, 1), expect.within("a resumed run"))
        expect.within("a resumed run")(
            not wrote or bool(_marked(run_dir)),
            "the values of earlier epochs to stay", f"values missing from {wrote}",
            "Resuming would lose the first part of the record.",
        )  # fmt: skip
        for label, events in (
            ("a run on pairs", run_events(_new(run_dir, "pairs"), metrics=_PAIRED)),
            ("an interrupted run", _until_step(run_events(_new(run_dir, "cut")))),
        ):
            _follow(build(), events, expect.within(label))
        _expect_no_threads(threads, expect)


def check_observer(watch: Watch, expect: Expect) -> None:
    """Check an implementation of ``siamkit_event``: it must accept every event of a run."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run_dir = _new(Path(folder), "run")
        _send(watch, run_events(run_dir), expect.within("a run"))
        _send(watch, run_events(run_dir, 1), expect.within("a resumed run"))
        pairs = run_events(_new(Path(folder), "pairs"), metrics=_PAIRED)
        _send(watch, pairs, expect.within("a run on pairs"))


def _new(beside: Path, name: str) -> Path:
    folder = beside.with_name(name) if beside.name == "run" else beside / name
    folder.mkdir()
    return folder


def _follow(tracker: Watch, events: Iterator[Event], expect: Expect) -> None:
    _send(tracker, events, expect)
    _close(tracker, expect)


def _send(watch: Watch, events: Iterator[Event], expect: Expect) -> None:
    for event in events:
        with expect.during(f"at {event.name!r}", _LEFT_OUT):
            watch(event)


def _close(tracker: Watch, expect: Expect) -> None:
    with expect.during("in close()", "Its pending values would be lost."):
        close = getattr(tracker, "close", None)
        if close is not None:
            close()


def _expect_nothing(folder: Path, expect: Expect) -> None:
    files = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    expect(
        files == ["run"], "nothing written before 'run_start'",
        [file for file in files if file != "run"],
        "A refused run would leave files behind, or one run would write into another's files.",
    )  # fmt: skip


def _marked(run_dir: Path) -> list[str]:
    """Return the files that contain the value of the first epoch."""
    mark = str(_MARK).encode()
    files = (path for path in run_dir.rglob("*") if path.is_file())
    return [path.name for path in files if mark in path.read_bytes()]


def _expect_no_threads(before: set[threading.Thread], expect: Expect) -> None:
    end = time.monotonic() + _THREAD_SECONDS
    while True:
        left = [t.name for t in set(threading.enumerate()) - before if not t.daemon]
        if not left or time.monotonic() > end:
            break
        time.sleep(0.02)
    expect(not left, "no running threads after close()", left,
           "The program would not end after training.")  # fmt: skip


def _until_step(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        if event.name == "step":
            return


def run_events(
    run_dir: Path, start: int = 0, metrics: Mapping[str, float] = _LABELLED
) -> Iterator[Event]:
    """Yield the events of a run of two epochs with two steps each, and an event of unknown name.

    Args:
        run_dir: The folder of the run.
        start: The number of epochs that are finished before the run resumes; 0 for a new run.
        metrics: The held-out metrics. In the first epoch, each has the value ``_MARK`` instead of
            the given one.
    """
    metrics = dict(metrics)
    monitor = next(iter(metrics))
    config = {
        "data": {"path": "sample"},
        "backbone": {"name": "resnet50"},
        "train": {"epochs": 2, "monitor": monitor},
        "track": [],
    }
    yield Event(
        "notice", {"text": "the newest checkpoint is damaged; the run resumes from the one before"}
    )
    yield Event(
        "run_start",
        {
            "run_dir": str(run_dir), "config": config, "weights": "random", "lr_find": None,
            "recipe": None,
            "data": {},
            "notices": ["class '[/bold]' has one image"], "versions": {"siamkit": "0"},
            "epochs": 2, "steps_per_epoch": 2, "images_per_epoch": 16, "device": "cpu",
            "finished_epochs": start, "finished_steps": 2 * start,
        },
    )  # fmt: skip
    for epoch in range(start, 2):
        now = dict.fromkeys(metrics, _MARK) if epoch == 0 else metrics
        yield Event(
            "phase_start",
            {
                "epoch": epoch + 1, "trainable_parameters": 64, "parameters": 128,
                "changes": [_change("layer4", epoch), _change("head", 1)],
                "reason": "policy 'stages'",
            },
        )  # fmt: skip
        yield Event("fill", {"done": 4, "total": 4, "seconds": 0.1})
        yield Event("engine", {"epoch": epoch + 1, **_CACHED})
        if epoch == 0:
            yield Event("untrained", metrics)
        for step in (2 * epoch + 1, 2 * epoch + 2):
            yield Event("step", _step(step, epoch))
        yield Event(
            "epoch_end",
            {
                "epoch": epoch + 1, "epochs": 2, "train_loss": 0.5, "metrics": now,
                "train_metrics": metrics, "best": True, "train_seconds": 1.0, "seconds": 1.5,
            },
        )  # fmt: skip
        yield Event("checkpoint", {"path": "x", "epoch": epoch + 1, "best": True})
    yield Event("early_stop", {"epoch": 2, "best_epoch": 1})
    yield Event("non_finite", {"step": 4, "samples": ["a.png", "b.png"]})
    yield Event("something_new", {})
    last = {"untrained": metrics, "best": {**metrics, "epoch": 2}, "last": metrics}
    yield Event("run_end", {"run_dir": str(run_dir), "epochs": 2, "phases": [], "metrics": last,
                            "stopped_early": True, "history": [], "calibration": None})  # fmt: skip


def _change(stage: str, trains: int) -> dict[str, Any]:
    return {"stage": stage, "parameters": 64, "trainable": 64 * trains, "was": None,
            "norm": "affine" if trains else "frozen", "lr": 1e-3}  # fmt: skip


def _step(step: int, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch + 1, "step": step, "steps": 4, "epoch_step": step - 2 * epoch,
        "epoch_steps": 2,
        "loss": _MARK if step == 1 else 1.0 / step, "lr": 1e-3, "rates": {"head": 1e-3},
        "images_per_second": 10.0, "seconds": 0.1, "input_seconds": 0.05,
    }  # fmt: skip
