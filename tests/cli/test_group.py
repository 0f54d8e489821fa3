"""Groups and commands of the command line: their help, and the values that they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import typer

from siamkit.cli.group import App, Group
from siamkit.errors import ConfigError


def app() -> App:
    made = App(cls=Group)

    @made.command("show", examples=("tool show a", "tool show b"))
    def show(names: list[str], size: str = "1", loud: bool = False) -> None:
        """Show names.

        A paragraph that the code
        breaks.
        """

    @made.command()
    def quiet() -> None:
        """Show nothing."""

    return made


def command(name: str) -> typer.core.TyperCommand:
    return typer.main.get_command(app()).commands[name]  # type: ignore[attr-defined,no-any-return]


def test_the_help_of_a_command_ends_with_its_examples_if_it_has_any() -> None:
    assert command("show").epilog == "$ tool show a\n\n$ tool show b"
    assert command("quiet").epilog is None


def test_the_help_breaks_lines_between_paragraphs_only() -> None:
    assert command("show").help == "Show names.\n\nA paragraph that the code breaks."


@pytest.mark.parametrize("args", [["show", "a", ""], ["show", "a", "--size", ""]])
def test_an_empty_value_is_refused(args: list[str]) -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        typer.main.get_command(app()).main(args, standalone_mode=False)


def test_values_that_are_not_empty_are_taken_and_completion_takes_all() -> None:
    typer.main.get_command(app()).main(["show", "a", "--size", " "], standalone_mode=False)
    context = command("show").make_context("show", ["a", ""], resilient_parsing=True)
    assert context.params["names"] == ["a", ""]


@pytest.mark.parametrize(
    ("parent", "where"), [(None, None), (SimpleNamespace(command_path="tool"), "tool part")]
)
def test_an_unknown_command_is_named_with_the_group_that_lacks_it(
    parent: object, where: str | None
) -> None:
    context = SimpleNamespace(parent=parent, command_path="tool part", resilient_parsing=False)
    group = typer.main.get_command(app())
    with pytest.raises(ConfigError, match="unknown command 'shwo'") as caught:
        group.resolve_command(context, ["shwo"])  # type: ignore[attr-defined]
    assert caught.value.where == where
    assert caught.value.hint == "did you mean 'show'? 'tool part --help' lists them"
