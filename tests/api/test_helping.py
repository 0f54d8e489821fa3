from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit import plugins, spelling
from siamkit.api import helping
from siamkit.cli.flag_keys import flag_of
from siamkit.comparison.plan import Plan
from siamkit.comparison.work import Work
from siamkit.errors import ResourceError
from siamkit.plugins import Selection


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_selection", None)
    monkeypatch.setattr(plugins, "select", lambda s: monkeypatch.setattr(plugins, "_selection", s))


def told(monkeypatch: pytest.MonkeyPatch, place: Path, parent: int, **settings: Any) -> int:
    """Run the process's main function with a message on stdin, in this process."""
    job = Work(Plan(()), None, place, {}, place, "again")  # type: ignore[arg-type]
    order = helping._Order(parent, job, settings.get("selection"), settings.get("flag_of"))
    stdin = SimpleNamespace(buffer=io.BytesIO(pickle.dumps(order)))
    monkeypatch.setattr(sys, "stdin", stdin)
    return helping.main()


@pytest.mark.parametrize("typed", [False, True])
def test_a_process_has_the_plugins_and_the_spelling_of_its_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: bool
) -> None:
    seen: list[Any] = []

    def work(job: Work, registries: Any, place: Any, watch: Any, listeners: Any) -> None:
        watch(None)  # the parent lives, so nothing happens
        listeners[0](None)
        seen.extend((plugins.selected(), spelling.argument("output"), place.path))

    monkeypatch.setattr(helping, "work", work)
    chosen = Selection(only=frozenset()) if typed else None
    settings = {"selection": chosen, "flag_of": flag_of if typed else None}
    assert told(monkeypatch, tmp_path, os.getppid(), **settings) == 0
    assert seen == [chosen, "--output" if typed else "output", tmp_path]
    assert not spelling.on_command_line()


def test_a_process_ends_without_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def work(job: Work, registries: Any, place: Any, watch: Any, listeners: Any) -> None:
        with pytest.raises(SystemExit):
            listeners[0](None)
        watch(None)

    monkeypatch.setattr(helping, "work", work)
    with pytest.raises(SystemExit):
        told(monkeypatch, tmp_path, os.getppid() + 1)


def test_an_error_is_printed_for_the_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*given: Any) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr(helping, "work", work)
    assert told(monkeypatch, tmp_path, os.getppid()) == 7
    assert "the disk is full" in capsys.readouterr().err
