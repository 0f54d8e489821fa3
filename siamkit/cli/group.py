"""The groups and commands of the command line, which refuse empty values.

The main group looks for a command among siamkit's own. If siamkit has no such command, the group
loads the plugins and looks among theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from siamkit.cli.failures import name_of
from siamkit.errors import ConfigError, PluginError, did_you_mean

if TYPE_CHECKING:
    from siamkit.plugins import Plugins


class _Given:
    """A mixin for commands and groups that refuses empty values.

    An unset shell variable gives an empty value. As a path, it would mean the current folder. No
    argument or option of siamkit has a use for an empty value.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the arguments.

        Raises:
            ConfigError: A value is empty.
        """
        if not ctx.resilient_parsing:
            for parameter, value in self._values(ctx, list(args)):
                if value == "" or (isinstance(value, list | tuple) and "" in value):
                    raise ConfigError(
                        "must not be empty",
                        where=name_of(parameter),
                        hint="a quoted shell variable that is not set gives an empty value",
                    )
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def _values(self, ctx: Any, args: list[str]) -> list[tuple[Any, Any]]:
        """Return the parameters that are given, with their values."""
        try:
            values, _, given = self.make_parser(ctx).parse_args(args=args)  # type: ignore[attr-defined]
        except Exception as error:
            # The parser does not know its command, but the error message must name the command.
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise
        return [(parameter, values.get(parameter.name)) for parameter in given]


class SiamkitCommand(_Given, TyperCommand):
    """A command of siamkit."""


class Group(_Given, TyperGroup):
    """A command group that suggests the nearest name for an unknown command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that ``args[0]`` names.

        Raises:
            ConfigError: There is no such command.
        """
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)
        near = did_you_mean(name, self.list_commands(ctx))
        lists = f"'{ctx.command_path} --help' lists them"
        where = None if ctx.parent is None else ctx.command_path
        hint = f"{near} {lists}" if near else lists
        raise ConfigError(f"unknown command {name!r}", where=where, hint=hint)


class App(typer.Typer):
    """A group of siamkit's own commands."""

    def __init__(self, *, cls: type[TyperGroup] = Group, **options: Any) -> None:
        super().__init__(cls=cls, **options)

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return the decorator that adds a command, as ``typer.Typer.command`` does.

        Args:
            name: The command's name; None derives it from the function's name.
            examples: Command lines to show at the end of the command's help.
            options: Other arguments of ``typer.Typer.command``.
        """
        lines = "\n\n".join(f"$ {line}" for line in examples)

        def decorate(function: CommandFunctionType) -> CommandFunctionType:
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            # Typer would break the lines of the help where the docstring breaks them.
            text = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
            add = super(App, self).command(
                name, cls=SiamkitCommand, help=text, epilog=lines or None, **options
            )
            return add(function)

        return decorate


class SiamkitGroup(Group):
    """A command group that looks for a command among siamkit's own, then among the plugins'.

    Completion and the help list only siamkit's own commands: they must not import torch, and
    loading plugins may import it.
    """

    def invoke(self, ctx: Any) -> Any:
        """Choose which plugins load, then run the command."""
        choose_plugins(ctx.params["no_plugins"], ctx.params["plugin"])
        return super().invoke(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, or None if neither siamkit nor a plugin has it."""
        command = super().get_command(ctx, cmd_name)
        if command is not None or ctx.resilient_parsing or cmd_name.startswith("-"):
            return command
        from siamkit import plugins

        return plugin_command(plugins.get(), cmd_name)


def choose_plugins(no_plugins: bool, only: list[str] | None) -> None:
    """Choose which plugins load: by the flags; without flags, by ``SIAMKIT_DISABLE_PLUGINS``.

    Args:
        no_plugins: Whether to load no third-party plugin.
        only: The names of the only third-party plugins to load; None or empty: all.

    Raises:
        ConfigError: Both flags are given.
    """
    if no_plugins and only:
        raise ConfigError("cannot be combined with --plugin", where="--no-plugins")
    from siamkit.plugins import Selection, select

    if no_plugins or only:
        select(Selection(only=frozenset(only or ())))
    else:
        select(Selection.from_environment())


def plugin_command(plugins: Plugins, name: str) -> Any:
    """Return the command ``name`` that a plugin adds, or None.

    Raises:
        PluginError: Two plugins add the name; or no plugin adds it, and the hook of one failed.
    """
    from siamkit.commands import added

    commands: dict[str, Any] = {}
    failure: PluginError | None = None
    for one in added(plugins):
        if one.failure is not None:
            failure = PluginError(
                f"plugin {one.plugin!r} of {one.distribution}: {one.failure}",
                hint=f"SIAMKIT_DISABLE_PLUGINS={one.distribution} leaves it out",
            )
        elif name in one.commands:
            commands[one.distribution] = one.commands[name]
    if len(commands) > 1:
        raise PluginError(
            f"command {name!r} is registered by {' and '.join(commands)}",
            hint="uninstall one of them, or disable one with SIAMKIT_DISABLE_PLUGINS",
        )
    if not commands and failure is not None:
        raise failure
    return next(iter(commands.values()), None)
