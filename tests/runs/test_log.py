"""The reader of the event log: events, and lines that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from siamkit.json_files import sealed
from siamkit.runs.directory import RunDir
from siamkit.runs.log import Log, read_log

STEP = {"epoch": 0, "step": 0, "epoch_step": 0, "epoch_steps": 0, "loss": 0.5}
PHASE = {"epoch": 0, "trainable_parameters": 0, "parameters": 0, "changes": []}
CHANGE = {"stage": "stem", "parameters": 0, "trainable": 0, "lr": 0.0}
UNKNOWN = {**CHANGE, "trainable": None, "norm": "frozen"}
EPOCH = {"epoch": 0, "train_loss": 0.5, "metrics": {"recall@1": None}, "best": False}
IMAGES = {"how": "by class", "train": "6 classes", "val": "2 classes"}

GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run_start", {}),
    ("run_start", {"finished_epochs": 0, "config": {}, "data": IMAGES, "notices": ["a"]}),
    (
        "phase_start",
        {**PHASE, "changes": [CHANGE, UNKNOWN]},
    ),
    ("engine", {"epoch": 0, "boundary": "stem", "kernel": None, "prefix_seconds": 1.5}),
    ("step", STEP),
    ("step", {**STEP, "rates": {"head": None}}),
    ("epoch_end", {**EPOCH, "train_metrics": {"recall@1": 0.5}}),
    ("notice", {"text": "a"}),
    ("non_finite", {"step": 0, "samples": ["a.png", 1]}),
    ("of a later siamkit", {"step": "any"}),
)

WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run_start", {"finished_epochs": -1}),
    ("run_start", {"config": []}),
    ("run_start", {"data": {"how": "by class"}}),
    ("run_start", {"notices": "a"}),
    ("phase_start", {**PHASE, "epoch": -1}),
    ("phase_start", {**PHASE, "changes": [{**CHANGE, "parameters": -1}]}),
    ("phase_start", {**PHASE, "changes": [{**CHANGE, "trainable": "0"}]}),
    ("engine", {}),
    ("engine", {"epoch": 0, "boundary": 3}),
    ("step", {**STEP, "step": "0"}),
    ("step", {**STEP, "loss": None}),
    ("step", {**STEP, "rates": {"head": "fast"}}),
    ("epoch_end", {**EPOCH, "best": 1}),
    ("epoch_end", {**EPOCH, "metrics": {"recall@1": "high"}}),
    ("notice", {"text": 3}),
    ("notice", {}),
    ("non_finite", {"step": 0.5, "samples": []}),
    ("non_finite", {"step": 0, "samples": {}}),
)


def line(name: str, data: dict[str, Any]) -> str:
    return json.dumps(sealed({"time": 1.5, "event": name, **data})) + "\n"


def test_each_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for name, data in GOOD:
        run.append_event(name, data)
    log = read_log(run.events)
    assert (log.damaged, log.problem) == (0, None)
    assert [event["event"] for event in log.events] == [name for name, _ in GOOD]
    for event, (_, data) in zip(log.events, GOOD, strict=True):
        assert {key: event[key] for key in data} == data
        assert event.keys() == {"time", "event", *data}


@pytest.mark.parametrize(("name", "data"), WRONG)
def test_an_event_that_no_reader_could_use_is_damage(
    name: str, data: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line("notice", {"text": "a"}) + line(name, data))
    log = read_log(path)
    assert (len(log.events), log.damaged) == (1, 1)


@pytest.mark.parametrize(
    "damage",
    [
        "no JSON", '{"time": 1', "[]", "3", "null", "{}", '{"time": 1.5, "event": "notice"}',
        "[" * 100_000, line("notice", {"text": "a"}).replace('"a"', '"b"').strip(),
        json.dumps(sealed({"event": "x"})), json.dumps(sealed({"time": "1", "event": "x"})),
    ],
)  # fmt: skip
def test_lines_that_are_no_events_are_counted(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"\n{damage}\n \n{line('notice', {'text': 'a'})}{damage}")
    log = read_log(path)
    assert [event["text"] for event in log.events] == ["a"]
    assert log.damaged == 2


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    text = json.dumps(sealed({"time": 1.5, "event": "notice", "text": "a\u2028b\x85c"}),
                      ensure_ascii=False)  # fmt: skip
    path.write_text(text + "\n", encoding="utf-8")
    assert read_log(path).events[0]["text"] == "a\u2028b\x85c"


def test_bytes_that_are_no_text_damage_their_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\xff\xfe\n" + line("notice", {"text": "a"}).encode())
    assert (len(read_log(path).events), read_log(path).damaged) == (1, 1)


def test_without_a_file_there_are_no_events_and_no_problem(tmp_path: Path) -> None:
    assert read_log(tmp_path / "events.jsonl") == Log()


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("events.jsonl", "pipe"):
        log = read_log(tmp_path / name)
        assert log.events == () and log.damaged == 0
        assert log.problem is not None and name in log.problem
