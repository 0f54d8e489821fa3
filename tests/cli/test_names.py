"""The index of names for completion: how long it is waited for, and when it is written anew."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from siamkit.cli import names


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would write an index."""
    found: list[list[str]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(names, "_WAIT", 0.0)
    monkeypatch.setattr(names.subprocess, "Popen", lambda args, **_: found.append(args))
    return found


def kept() -> Path:
    path = names._file()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"stamp": names._stamp(), "presets": ["classic"]}))
    return path


def test_an_index_of_these_packages_is_read_at_once(started: list[list[str]]) -> None:
    kept()
    assert names.read()["presets"] == ["classic"] and started == []


def test_an_index_that_comes_in_time_is_read(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_WAIT", 4.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: kept())
    assert names.read()["presets"] == ["classic"] and len(started) == 1


def test_without_an_index_in_time_there_are_no_names(started: list[list[str]]) -> None:
    assert names.read() == {}
    assert started == [[sys.executable, "-m", "siamkit.cli.names"]]


def test_an_index_is_written_anew_once_a_writer_must_have_failed(
    started: list[list[str]],
) -> None:
    names.read()
    marker = names._file().with_suffix(".writing")
    for age, more in ((names._STALE - 30, 0), (names._STALE + 30, 1)):
        then = time.time() - age
        os.utime(marker, (then, then))
        before = len(started)
        names.read()
        assert len(started) == before + more, age


def test_the_stamp_tells_which_plugins_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIAMKIT_DISABLE_PLUGINS", raising=False)
    whole = names._stamp()
    monkeypatch.setenv("SIAMKIT_DISABLE_PLUGINS", "tinyconv")
    assert names._stamp() != whole


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("auto | int | null", ["auto", "null"]),
        ("true | false", ["true", "false"]),
        ("list of text | name", []),
        ("[float, float] | null", ["null"]),
    ],
)
def test_only_fixed_values_of_an_option_are_completed(kind: str, values: list[str]) -> None:
    assert names._values(kind) == values
