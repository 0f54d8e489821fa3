"""The commands that plugins add are collected, and what is wrong with them is told."""

from __future__ import annotations

import importlib.metadata
import types
from collections.abc import Callable
from typing import Any

import pytest
import typer

import siamkit
from siamkit.commands import Added, added, conflicts
from siamkit.plugins import load


class Installed(importlib.metadata.EntryPoint):
    """An entry point of the distribution ``siamkit-NAME``, whose only hook adds commands."""

    def load(self) -> Any:
        module = types.ModuleType(self.name)
        if self.name in HOOKS:
            hook = HOOKS[self.name]

            @siamkit.hookimpl
            def siamkit_register_commands(app: typer.Typer) -> None:
                hook(app)

            module.siamkit_register_commands = siamkit_register_commands  # type: ignore[attr-defined]
        else:
            module.siamkit_event = siamkit.hookimpl(lambda event: None)  # type: ignore[attr-defined]
        return module


def adds(*names: str | None) -> Callable[[typer.Typer], None]:
    def hook(app: typer.Typer) -> None:
        for name in names:

            @app.command(name)
            def say_hello() -> None: ...

    return hook


def fails(error: BaseException) -> Callable[[typer.Typer], None]:
    def hook(app: typer.Typer) -> None:
        adds("lost")(app)
        raise error

    return hook


def with_callback(app: typer.Typer) -> None:
    adds("hello")(app)
    app.callback()(lambda: None)


def with_group(app: typer.Typer) -> None:
    group = typer.Typer()
    adds("one", "two")(group)
    app.add_typer(group, name="many")


def printing(app: typer.Typer) -> None:
    print("adding")
    adds("hello")(app)


HOOKS: dict[str, Callable[[typer.Typer], None]] = {
    "one": adds("hello"),
    "two": adds("hello", "bye"),
    "twice": adds("hello", "hello", "bye"),
    "unnamed": adds(None, "say-hello"),
    "rogue": adds("train"),
    "empty": adds(),
    "broken": fails(ZeroDivisionError("oops")),
    "ending": fails(SystemExit(3)),
    "stopped": fails(KeyboardInterrupt()),
    "callback": with_callback,
    "group": with_group,
    "loud": printing,
}


def commands(*names: str) -> list[Added]:
    points = []
    for name in names:
        point = Installed(name, "x", "siamkit")
        vars(point)["dist"] = types.SimpleNamespace(name=f"siamkit-{name}", version="1.0")
        points.append(point)
    loaded = load(points)
    assert [info.error for info in loaded.infos] == [None] * len(names)
    return list(added(loaded))


def test_each_plugin_has_its_own_commands():
    found = {one.plugin: one for one in commands("a-watcher", "one", "two", "watcher", "group")}
    assert {name: list(one.commands) for name, one in found.items()} == {
        "one": ["hello"], "two": ["hello", "bye"], "group": ["many"],
    }  # fmt: skip
    assert found["one"].distribution == "siamkit-one"
    assert all((one.problems, one.failure) == ((), None) for one in found.values())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("twice", "command 'hello' is added 2 times: only the last one runs"),
        ("unnamed", "command 'say-hello' is added 2 times: only the last one runs"),
        ("rogue", "command 'train' never runs, because siamkit has its own: rename it"),
        ("empty", "siamkit_register_commands adds no command"),
        ("callback", "the callback on app never runs: add options to the commands themselves"),
    ],
)
def test_what_would_surprise_its_author_is_told(name, problem):
    (one,) = commands(name)
    assert one.problems == (problem,) and one.failure is None


@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "ZeroDivisionError: oops"), ("ending", "SystemExit: 3")]
)
def test_a_plugin_whose_hook_fails_adds_nothing_and_hides_nobody(name, reason):
    first, other = sorted(commands(name, "one"), key=lambda one: one.plugin == "one")
    failure = f"the commands cannot be loaded: {reason}"
    assert first == Added(name, f"siamkit-{name}", {}, (failure,), failure)
    assert list(other.commands) == ["hello"]


def test_ctrl_c_in_a_hook_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        commands("stopped")


def test_what_a_hook_prints_goes_to_stderr(capsys):
    commands("loud")
    assert capsys.readouterr() == ("", "adding\n")


def test_conflicts_name_all_that_add_a_command():
    found = commands("one", "two", "rogue", "loud")
    assert conflicts(found) == {
        "hello": ["siamkit-loud", "siamkit-one", "siamkit-two"],
        "train": ["siamkit", "siamkit-rogue"],
    }
    assert list(conflicts(found)) == ["hello", "train"]
    assert conflicts(commands("one", "group")) == {}
