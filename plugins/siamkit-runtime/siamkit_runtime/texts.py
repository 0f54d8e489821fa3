"""Plain texts: tables as siamkit prints them into a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from .report.plain import NEIGHBOUR_COLUMNS, neighbour_cells, search_lines
from .words import printable

_NUMBERS = ("rank", "score")
_GAP = " " * 3  # between two columns


def searched(result: Mapping[str, Any]) -> str:
    """Return what ``siamkit search`` prints."""
    parts = [printable(line) for line in search_lines(result)]
    for query in result["queries"]:
        rows = [tuple(map(printable, neighbour_cells(one))) for one in query["neighbours"]]
        parts += ["", printable(query["path"]), *_table(NEIGHBOUR_COLUMNS, rows)]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [
        max(_width(row[number]) for row in (columns, *rows)) for number in range(len(columns))
    ]

    def line(row: Sequence[str]) -> str:
        cells = (
            " " * (width - _width(cell)) + cell
            if column in _NUMBERS
            else cell + " " * (width - _width(cell))
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        return _GAP.join(cells).rstrip()

    rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    return [line(columns), rule, *map(line, rows)]


def _width(text: str) -> int:
    """Return the number of a terminal's columns that a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
