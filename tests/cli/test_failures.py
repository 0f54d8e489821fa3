"""Exceptions become errors that tell the user where, what and what next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from siamkit.cli.failures import as_siamkit_error, name_of
from siamkit.errors import ConfigError, Interrupted, ResourceError, SiamkitError


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(12, "no memory")]
)
def test_a_lack_of_memory_says_how_to_need_less(error: BaseException) -> None:
    found = as_siamkit_error(error)
    assert isinstance(found, ResourceError)
    assert "--image-size" in str(found) and "--micro-batch N" in str(found)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError(" odd \n"), "unexpected RuntimeError: odd (test_failures.py:"),
        (KeyError(), "unexpected KeyError: no message (test_failures.py:"),
        (OSError("from a library"), "unexpected OSError: from a library (test_failures.py:"),
    ],
)
def test_what_nobody_foresaw_is_a_bug_at_a_place(error: Exception, text: str) -> None:
    try:
        raise error
    except Exception as raised:
        found = as_siamkit_error(raised)
    assert type(found) is SiamkitError and str(found).startswith(text)
    assert "this is a bug in siamkit or in a plugin; 'siamkit --debug ...'" in str(found)
    assert "(" not in str(as_siamkit_error(type(error)("x"))).partition(";")[0], "never raised"


def test_errors_of_siamkit_and_interruptions_stay_what_they_are() -> None:
    own = ConfigError("x")
    assert as_siamkit_error(own) is own
    for error in (typer.Abort(), KeyboardInterrupt()):
        found = as_siamkit_error(error)
        assert isinstance(found, Interrupted) and found.exit_code == 130


@pytest.mark.parametrize(
    ("kind", "options", "metavar", "name"),
    [
        ("option", ["--output", "-o"], "FILE", "--output"), ("argument", ["run"], "RUN", "RUN"),
        ("argument", ["run"], None, "run"),
    ],
)  # fmt: skip
def test_a_parameter_has_the_name_that_the_help_shows(
    kind: str, options: list[str], metavar: str | None, name: str
) -> None:
    parameter = SimpleNamespace(param_type_name=kind, opts=options, metavar=metavar, name="run")
    assert name_of(parameter) == name


@pytest.fixture
def refused() -> Any:
    """Return the text of the error that a command line causes."""
    app = typer.Typer()

    @app.command()
    def one(
        run: str = typer.Argument(..., metavar="RUN"),
        plain: str = typer.Argument("x"),
        epochs: int = typer.Option(1, "--epochs", "-e"),
        mode: str = typer.Option("x", "--Mode"),
    ) -> None:
        pass

    @app.command()
    def two(context: typer.Context) -> None:
        raise typer.BadParameter("A thing. That ends.", ctx=context)

    def error_of(*args: str) -> str:
        result = CliRunner().invoke(app, args, standalone_mode=False)
        assert result.exception is not None
        found = as_siamkit_error(result.exception)
        assert isinstance(found, ConfigError)
        return str(found)

    return error_of


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["one", "r", "--epohcs", "2"], "no such option '--epohcs'; did you mean '--epochs'? '"),
        (["one", "r", "--zzzzzz"], "no such option '--zzzzzz'; 'root one --help' shows the usage"),
        (["one", "r", "-e", "x"], "--epochs: must be an integer; 'root one --help' shows the usag"),
        # Some versions of click do not say of which command this is.
        (["one", "r", "--epochs"], ": option '--epochs' requires an argument; '"),
        (["one"], "missing argument 'RUN'; 'root one --help' shows the usage"),
        (["one", "r", "p", "q"], "root one: got unexpected extra argument"),
        (["two"], "root two: invalid value: A thing. That ends; 'root two --help' shows the usage"),
    ],
)
def test_a_wrong_command_line_names_what_is_wrong(refused: Any, args: list[str], text: str) -> None:
    found = refused(*args)
    assert text in found, found
