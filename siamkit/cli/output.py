"""The output of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from siamkit.errors import SiamkitError


_reserved: TextIO | None = None


def stdout() -> TextIO:
    """Return the stream that results are written to."""
    return _reserved or sys.stdout


def reserve_stdout() -> None:
    """Redirect ``print`` to stderr, so that stdout holds only the object of ``--json``.

    Plugins and libraries may print, and their output around the object would break its parsing.
    """
    global _reserved
    if _reserved is None:
        _reserved, sys.stdout = sys.stdout, sys.stderr


@contextmanager
def restored_stdout() -> Iterator[None]:
    """Undo :func:`reserve_stdout` when the block ends."""
    global _reserved
    try:
        yield
    finally:
        if _reserved is not None:
            sys.stdout, _reserved = _reserved, None


def emit_json(kind: str, body: Mapping[str, Any]) -> None:
    """Print the JSON object of ``--json``, with the name and version of its schema."""
    from siamkit.report.units import finite

    result = {"schema": f"siamkit.{kind}/1", **finite(body)}
    print(json.dumps(result, indent=2, allow_nan=False), file=stdout())


def emit(result: RenderableType) -> None:
    """Print a human-readable result to stdout."""
    from siamkit.report.terminal import make_console

    make_console(sys.stdout).print(result)


def notice(text: str) -> None:
    """Print a notice to stderr: useful to know, but not an error."""
    typer.secho("notice: ", fg="yellow", err=True, nl=False)
    print(text, file=sys.stderr)


def emit_error(error: SiamkitError, *, as_json: bool) -> None:
    """Print an error to stderr and, for ``--json``, as an object to stdout."""
    from siamkit.report.terminal import printable

    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    print(printable(error), file=sys.stderr)
    if as_json:
        emit_json("error", {"error": error.to_dict()})
