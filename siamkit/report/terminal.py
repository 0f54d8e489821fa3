"""Consoles that print every text literally.

Class names, paths and plugin texts come from outside siamkit. ``[/bold]`` is a valid class name and
must not be read as markup, and an escape sequence in a name must not reach the terminal.
"""

from __future__ import annotations

import os
import re
from typing import IO, Any, cast

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from siamkit.showing import mute
from siamkit.words import printable

_PIPE_WIDTH = 1000
_BLANKS = re.compile(r"[ ]+$", re.MULTILINE)


def make_console(stream: IO[str]) -> Console:
    """Return a console on ``stream`` that interprets no markup.

    On a terminal, the console has the terminal's width. Elsewhere, lines end without blanks and may
    have 1000 columns, so that a pipe loses nothing; ``COLUMNS`` sets another width.
    """
    if stream.isatty():
        return _Console(file=stream, markup=False, highlight=False, emoji=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdigit() and int(columns) else _PIPE_WIDTH
    trimmed = cast("IO[str]", _Trimmed(stream))
    return _Console(file=trimmed, width=width, markup=False, highlight=False, emoji=False)


class _Trimmed:
    """A stream that drops the blanks with which rich fills the lines of tables."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Console(Console):
    """A console that drops its output once the reader has closed the stream.

    rich would end the process: a training would stop because the reader of its log has ended.
    """

    def on_broken_pipe(self) -> None:
        """Discard all further output to the stream."""
        self.quiet = True
        mute(self.file)


def styled(text: object, style: str = "") -> Text:
    """Return ``text`` in a style, with control characters escaped."""
    return Text(printable(text), style=style)


def whole(*parts: object) -> Group:
    """Return a line that is never wrapped, such as one with a path that a user may copy.

    Print it with ``crop=False``: otherwise a console cuts the line off at its own width.
    """
    # In a group, because a console joins texts that it prints, and wraps the result.
    return Group(Text.assemble(*cells(*parts), no_wrap=True, overflow="ignore"))


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
    """Return the cells of a row; None gives an empty cell."""
    return [value if isinstance(value, Text) else styled("" if value is None else value)
            for value in values]  # fmt: skip
