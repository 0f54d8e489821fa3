from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from siamkit.engine.cache.budget import clear
from siamkit.json_files import read_sealed, write_sealed
from siamkit.model.quantized import Quantized
from siamkit.training.made_graphs import MadeGraph, MadeGraphs
from siamkit.training.speeds import Speeds

GRAPH = b"a graph"
RECORD = Quantized("body", (), (3, 5, 5), (4,), 7, hashlib.sha256(GRAPH).hexdigest(), {"a": 1})
MADE = MadeGraph(RECORD, GRAPH, Speeds(0.2, 0.1), apart=0.03)


def test_a_graph_is_kept_for_the_same_facts_only(tmp_path: Path) -> None:
    MadeGraphs(tmp_path, {"weights": "a"}).write(MADE)
    assert MadeGraphs(tmp_path, {"weights": "a"}).read() == MADE
    assert MadeGraphs(tmp_path, {"weights": "b"}).read() is None


def test_a_damaged_graph_is_not_used(tmp_path: Path) -> None:
    kept = MadeGraphs(tmp_path, {})
    kept.write(MADE)
    [graph] = tmp_path.glob("int8/*/graph.onnx")
    graph.write_bytes(b"another")
    assert kept.read() is None
    kept.write(MADE)
    [record] = tmp_path.glob("int8/*/record.json")
    record.write_text(record.read_text().replace("0.1", "0.05"))
    assert kept.read() is None
    kept.write(MADE)
    graph.unlink()
    assert kept.read() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("record"),
        lambda values: values.pop("time"),
        lambda values: values.update(time="today"),
        lambda values: values.update(record=[]),
        lambda values: values["record"].pop("graph"),
        lambda values: values["speeds"].update(float16=1.0),
        lambda values: values.pop("apart"),
        lambda values: values.update(apart="near"),
    ],
)
def test_a_record_of_another_form_is_not_used(tmp_path: Path, change: Any) -> None:
    kept = MadeGraphs(tmp_path, {})
    kept.write(MADE)
    [record] = tmp_path.glob("int8/*/record.json")
    values = read_sealed(record)
    assert kept.read() == MADE
    change(values)
    write_sealed(record, values)
    assert kept.read() is None


@pytest.mark.parametrize(("days", "used"), [(0, True), (29.99, True), (30, False), (-0.01, False)])
def test_a_graph_is_used_for_thirty_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, used: bool
) -> None:
    kept, now = MadeGraphs(tmp_path, {}), 1.7e9
    monkeypatch.setattr(time, "time", lambda: now)
    kept.write(MADE)
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    assert (kept.read() == MADE) is used


def test_the_newest_graphs_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        kept = MadeGraphs(tmp_path, {"number": number})
        kept.write(replace(MADE, speeds=Speeds(1.0, 0.5)))
        for folder in tmp_path.glob("int8/*"):
            os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - 10))
    assert len(list(tmp_path.glob("int8/*"))) == 8
    assert MadeGraphs(tmp_path, {"number": 11}).read() is not None
    assert MadeGraphs(tmp_path, {"number": 3}).read() is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "int8").write_text("in the way")
    kept = MadeGraphs(tmp_path, {})
    kept.write(MADE)
    assert kept.read() is None


def test_clearing_the_cache_deletes_the_graphs(tmp_path: Path) -> None:
    kept = MadeGraphs(tmp_path, {})
    kept.write(MADE)
    clear(tmp_path)
    assert kept.read() is None
