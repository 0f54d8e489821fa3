"""CSV rows: written such that every CSV reader reads them back."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import IO


class RowWriter:
    r"""A writer of CSV rows, like ``csv.writer``, with lines that end in ``\n``.

    A cell with a lone carriage return is quoted, as one with a line feed is. Before Python 3.13,
    ``csv.writer`` quotes only the characters of its own line ends, and readers then find two rows.

    Args:
        stream: A text stream that was opened with ``newline=""``.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._usual = csv.writer(stream, lineterminator="\n")
        self._quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Iterable[object]) -> None:
        """Write a row."""
        cells = list(row)
        odd = any("\r" in cell for cell in cells if isinstance(cell, str))
        (self._quoting if odd else self._usual).writerow(cells)

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows."""
        for row in rows:
            self.writerow(row)
