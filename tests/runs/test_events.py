"""The events of a run: logged, and passed on to listeners and observers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
