"""Cells: reads the cells of a table's rows, and collects all problems with their row numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .geometry import Box

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


@dataclass
class Cells:
    """A reader of a table's cells that collects all problems with their row numbers.

    Attributes:
        root: The folder that paths are relative to, as an absolute path.
        problems: The problems so far, one line each.
    """

    root: Path
    problems: list[str] = field(default_factory=list)

    def path(self, number: int, cell: str, column: str = "path") -> str | None:
        """Return a cell as a normalised path relative to the root; None if the path is invalid."""
        key = PurePosixPath(cell)
        if not cell:
            self.wrong(number, f"{column} is empty")
            return None
        if "\0" in cell:
            self.wrong(number, f"{column} holds a NUL character")
            return None
        if _URL.match(cell):
            self.wrong(number, f"{column} is a URL, not the path of a downloaded file: {cell}")
            return None
        target = self.root / key
        if key.is_absolute():
            self.wrong(number, f"{column} must be a relative path: {cell}")
            return None
        if ".." in key.parts:
            self.wrong(number, f"{column} leads out of the folder: {cell}")
            return None
        try:
            if not target.resolve().is_relative_to(self.root):
                self.wrong(number, f"{column} is a link out of the folder: {cell}")
                return None
        except (OSError, RuntimeError) as error:
            self.wrong(number, f"{column} cannot be followed: {error}")
            return None
        if cell[1:2] == ":" and not target.exists():  # a drive, unless a folder has such a name
            self.wrong(number, f"{column} must be a relative path: {cell}")
            return None
        if "\\" in cell and not target.exists():
            slashes = cell.replace("\\", "/")
            self.wrong(number, f"{column} has backslashes, write {slashes} instead of {cell}")
            return None
        return str(key)

    def flag(self, number: int, cell: str, column: str) -> bool | None:
        """Return a cell as a truth value; None if the cell is neither true nor false."""
        word = cell.lower()
        if word not in (*_TRUE, *_FALSE):
            self.wrong(number, f"{column} must be 1 or 0, got {cell!r}")
            return None
        return word in _TRUE

    def word(self, number: int, cell: str, column: str) -> str | None:
        """Return the text of a cell; None, with a problem, if the cell is empty."""
        if not cell:
            self.wrong(number, f"{column} is empty")
        return cell or None

    def box(self, number: int, cells: Sequence[str]) -> Box | None:
        """Return four cells as a box.

        Returns:
            The box; None if all four cells are empty (the whole image), or if the box is invalid.
        """
        if not any(cells):
            return None
        try:
            x1, y1, x2, y2 = (float(cell) for cell in cells)
        except ValueError:
            self.wrong(number, f"x1,y1,x2,y2 must be numbers, got {','.join(cells)}")
            return None
        if not (0 <= x1 < x2 < float("inf") and 0 <= y1 < y2 < float("inf")):
            self.wrong(number, f"must be 0 <= x1 < x2 and 0 <= y1 < y2: {','.join(cells)}")
            return None
        return x1, y1, x2, y2

    def wrong(self, number: int, text: str) -> None:
        """Add a problem with row ``number``."""
        self.problems.append(f"row {number}: {text}")
