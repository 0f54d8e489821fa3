"""Collects the commands that plugins add. A broken plugin does not hide the others' commands."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.main import get_command_name, get_group

from siamkit.plugins import OWN, Plugins

VERBS = (
    "cache", "calibrate", "compare", "config", "data", "embed", "evaluate", "export", "index",
    "inspect", "list", "lr-find", "plugins", "prune", "report", "search", "train", "verify",
)  # fmt: skip
"""siamkit's own commands. A plugin's command with one of these names would never run."""


@dataclass(frozen=True)
class Added:
    """The commands that one plugin adds.

    Attributes:
        plugin: The entry point's name.
        distribution: The distribution that declares the entry point.
        commands: The plugin's commands by name. A command with a name in :data:`VERBS` never runs.
        problems: What is wrong with the commands; one text per problem.
        failure: The reason why the plugin's commands cannot be loaded; None if they can.
    """

    plugin: str
    distribution: str
    commands: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    failure: str | None = None


def added(plugins: Plugins) -> Iterator[Added]:
    """Yield the commands of each plugin with the hook ``siamkit_register_commands``."""
    for key, plugin in plugins.manager.list_name_plugin():
        distribution, _, name = key.partition(":")
        others = [p for p in plugins.manager.get_plugins() if p is not plugin]
        hook = plugins.manager.subset_hook_caller("siamkit_register_commands", others)
        if not hook.get_hookimpls():
            continue
        app = typer.Typer()
        try:
            # A plugin's output must not come before the JSON object of a command.
            with redirect_stdout(sys.stderr):
                hook(app=app)
            empty = not (app.registered_commands or app.registered_groups)
            commands = {} if empty else dict(get_group(app).commands)
        # One broken plugin must not hide the commands of the others.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = f"the commands cannot be loaded: {type(error).__name__}: {error}"
            yield Added(name, distribution, problems=(failure,), failure=failure)
            continue
        yield Added(name, distribution, commands, tuple(_problems(app, commands)))


def conflicts(commands: list[Added]) -> dict[str, list[str]]:
    """Return the commands that several distributions add, each with these distributions' names."""
    claims: dict[str, list[str]] = {verb: [OWN] for verb in VERBS}
    for one in commands:
        for name in one.commands:
            claims.setdefault(name, []).append(one.distribution)
    return {name: by for name, by in sorted(claims.items()) if len(by) > 1}


def _problems(app: typer.Typer, commands: Mapping[str, Any]) -> Iterator[str]:
    if not commands:
        yield "siamkit_register_commands adds no command"
    names = Counter(
        info.name or get_command_name(getattr(info.callback, "__name__", ""))
        for info in app.registered_commands
    )
    for name, times in names.items():
        if times > 1:
            yield f"command {name!r} is added {times} times: only the last one runs"
    for name in commands:
        if name in VERBS:
            yield f"command {name!r} never runs, because siamkit has its own: rename it"
    if app.registered_callback is not None:
        yield "the callback on app never runs: add options to the commands themselves"
