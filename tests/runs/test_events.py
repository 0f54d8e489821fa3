"""The events of a run: logged, and passed on to listeners and observers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from siamkit.interfaces import Event
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Observer, emitter
from siamkit.runs.log import read_log


def test_an_event_is_logged_and_then_reaches_all_in_order(tmp_path: Path) -> None:
    heard: list[tuple[str, str, int]] = []

    def listener(name: str) -> Any:
        def listen(event: Event) -> None:
            logged = len(read_log(RunDir(tmp_path).events).events)
            heard.append((name, event.data["text"], logged))
            event.data["text"] = "changed by a listener"

        return listen

    emit = emitter(RunDir(tmp_path), [listener("a"), listener("b")], [listener("c")])
    data = {"text": "first"}
    emit("notice", data)
    emit("notice", {"text": "second"})
    assert heard == [
        ("a", "first", 1), ("b", "first", 1), ("c", "first", 1),
        ("a", "second", 2), ("b", "second", 2), ("c", "second", 2),
    ]  # fmt: skip
    assert data == {"text": "first"}


@pytest.mark.parametrize(
    ("named", "whose"), [(True, "the tracker 'x' of y"), (False, "an observer plugin")]
)
def test_an_observer_that_fails_is_left_out_and_the_others_go_on(
    named: bool, whose: str, tmp_path: Path
) -> None:
    heard: list[str] = []
    failures: list[str] = []

    def fails(event: Event) -> None:
        failures.append(event.name)
        raise SystemExit("no network")

    def listen(event: Event) -> None:
        heard.append(event.data.get("text", event.name))

    broken = Observer("the tracker 'x' of y", fails) if named else fails
    emit = emitter(RunDir(tmp_path), [], [broken, listen])
    emit("step_done", {})
    emit("step_done", {})
    text = f"{whose} failed and was left out: SystemExit: no network"
    assert heard == ["step_done", text, "step_done"]
    assert failures == ["step_done"]
    logged = [event["event"] for event in read_log(RunDir(tmp_path).events).events]
    assert logged == ["step_done", "notice", "step_done"]


def test_an_observer_whose_code_would_never_run_is_left_out(tmp_path: Path) -> None:
    def yields(event: Event) -> Any:
        yield event

    async def waits(event: Event) -> None:
        pass

    async def both(event: Event) -> Any:
        yield event

    told: list[str] = []

    def listen(event: Event) -> None:
        told.append(event.data.get("text", ""))

    observers = [Observer(f"{f.__name__}", f) for f in (yields, waits, both)]
    emitter(RunDir(tmp_path), [], [*observers, listen])("step_done", {})
    for name, kind in {
        "yields": "generator",
        "waits": "coroutine",
        "both": "async generator",
    }.items():
        assert any(f"{name} failed" in text and f"returned a {kind}" in text for text in told)
    with pytest.raises(TypeError, match="none of its code ran"):
        emitter(RunDir(tmp_path), [yields], [])("step_done", {})


def test_a_listener_that_fails_ends_the_run_and_ctrl_c_ends_it_everywhere(tmp_path: Path) -> None:
    def fails(error: BaseException) -> Any:
        def listen(event: Event) -> None:
            raise error

        return listen

    for listeners, observers, error in (
        ([fails(ValueError("mine"))], [], ValueError),
        ([], [fails(KeyboardInterrupt())], KeyboardInterrupt),
    ):
        with pytest.raises(error):
            emitter(RunDir(tmp_path), listeners, observers)("step_done", {})


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("place", ["listener", "observer"])
def test_the_working_directory_and_gradients_stay_as_they_were(
    place: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("run").mkdir()

    def moves(event: Event) -> None:
        os.chdir(tmp_path / "away")
        torch.set_grad_enabled(False)
        if fails:
            raise ValueError("no network")

    first = ([moves], []) if place == "listener" else ([], [moves])
    emit = emitter(RunDir(Path("run")), *first)
    with torch.enable_grad():
        for _ in range(2):
            with contextlib.suppress(ValueError):
                emit("notice", {"text": "hello"})
            assert torch.is_grad_enabled()
            assert Path.cwd() == tmp_path / "work"
    assert Path("run/events.jsonl").is_file() and not any((tmp_path / "away").iterdir())


def test_a_listener_that_deletes_the_working_directory_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    emit = emitter(RunDir(tmp_path), [lambda event: (tmp_path / "work").rmdir()], [])
    emit("notice", {"text": "hello"})


def test_events_go_on_in_a_working_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    heard: list[str] = []
    emitter(RunDir(tmp_path), [lambda event: heard.append(event.name)], [])("notice", {})
    assert heard == ["notice"]
