"""Consoles that print what they are given, character for character.

Class names, paths and plugin texts are not ours: ``[/bold]`` is a fine name of a class and must
not be read as markup, and an escape sequence in one must not reach the terminal.
"""

from __future__ import annotations

import os
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 1000


def make_console(stream: IO[str]) -> Console:
    """Return a console on ``stream`` that knows no markup.

    On a terminal it has the terminal's width; elsewhere lines are as long as they need to be, so
    that a pipe loses nothing (``COLUMNS`` limits them).
    """
    width = None
    if not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def printable(text: object) -> str:
    """Return ``text`` with control characters (other than newlines) spelled out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def styled(text: object, style: str = "") -> Text:
    """Return ``text``, made printable, in a style."""
    return Text(printable(text), style=style)


def make_table(*columns: str, numbers: tuple[str, ...] = (), title: str | None = None) -> Table:
    """Return an empty table with a plain header; columns in ``numbers`` are right-aligned."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title=None if title is None else styled(title, "bold"),
        title_justify="left",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def cells(*values: object) -> list[Text]:
    """Return the cells of a row; None is empty."""
    return [value if isinstance(value, Text) else styled("" if value is None else value)
            for value in values]  # fmt: skip
