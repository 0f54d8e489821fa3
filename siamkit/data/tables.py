"""Tables: reads CSV and Parquet files into numbered rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from siamkit.data.images import Box
from siamkit.errors import ConfigError, DataError, did_you_mean
from siamkit.words import plural

ENDINGS = (".csv", ".tsv", ".parquet")
"""File name endings, in lower case, of tables."""

KNOWN = frozenset(
    (
        "path",
        "label",
        "split",
        "group",
        "is_query",
        "is_gallery",
        "x1",
        "y1",
        "x2",
        "y2",
        "a",
        "b",
        "same",
        "anchor",
        "positive",
        "negative",
    )
)
"""The columns that some kind of table uses."""

_DELIMITERS = (",", ";", "\t")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


_MISSING = frozenset(("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "undefined"))


def missing_notices(noun: str, names: Iterable[str], of: str = "image") -> list[str]:
    """Return a notice for each name that looks like a missing value. Pure.

    Such a name is accepted, since it may be real: a person named Null, or the country NA.

    Args:
        noun: The kind of the names: ``class`` or ``group``.
        names: The name of each image; a class of a folder is the path of that folder.
        of: The noun for what the names belong to.
    """
    odd = Counter(name for name in names if name.rpartition("/")[2].lower() in _MISSING)
    return [
        f"the {noun} {name!r} of {plural(count, of)} looks like a missing value, but counts "
        f"as a {noun}; correct it if a value is missing"
        for name, count in sorted(odd.items())
    ]


@dataclass(frozen=True)
class Table:
    """Rows of text by column.

    Attributes:
        path: The file.
        columns: The names in its header, in lower case.
        rows: The number of each row, where the header is row 1 as in a spreadsheet, and the row's
            cells by column, without surrounding spaces.
        problems: The problems of rows that could not be read.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    problems: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Read a CSV file (comma, semicolon or tab; UTF-8) or a Parquet file.

    Raises:
        DataError: The file cannot be read, or its header is invalid.
        ConfigError: Parquet needs an extra that is not installed.
    """
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if repeated := [n for n, count in Counter(table.columns).items() if n and count > 1]:
        raise DataError(
            "the header has several columns of the same name",
            where=str(path),
            got=", ".join(repeated),
        )
    return table


def _read_csv(path: Path) -> Table:
    try:
        if not path.is_file():  # a FIFO would block the read for ever
            raise DataError("not a regular file", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the table: {error.strerror}", where=str(path)) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("the table is UTF-16", where=str(path), hint="save it as UTF-8")
    lines = data.decode("utf-8-sig", errors="replace")
    header = lines.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, Mapping[str, str]]] = []
    problems: list[str] = []
    try:
        columns = tuple(cell.strip().lower() for cell in next(reader, []))
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                problems.append(
                    f"row {number}: {plural(len(cells), 'cell')}, but the header has {len(columns)}"
                )
            elif any("\ufffd" in cell for cell in cells):
                problems.append(f"row {number}: not UTF-8")
            else:
                named = zip(columns, cells, strict=True)
                rows.append((number, {name: cell.strip() for name, cell in named}))
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} cannot be read: {error}",
            where=str(path),
            hint="check for a missing quotation mark",
        ) from None
    if not any(columns):
        raise DataError("the file is empty: it has no header", where=str(path))
    return Table(path, columns, tuple(rows), tuple(problems))


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow",
            where=str(path),
            hint="pip install 'siamkit[parquet]', or save the table as CSV",
        ) from None
    try:
        if not path.is_file():
            raise DataError("not a regular file", where=str(path))
        names = parquet.read_schema(path).names
        columns = tuple(name.strip().lower() for name in names)
        # Other columns may hold any type, and much data.
        wanted = [name for name, column in zip(names, columns, strict=True) if column in KNOWN]
        table = parquet.read_table(path, columns=wanted)
        known = [column for column in columns if column in KNOWN]
        values = [table.column(i).to_pylist() for i in range(len(known))]
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the table: {reason}", where=str(path)) from None
    rows = tuple(
        (number, {n: _text(v) for n, v in zip(known, cells, strict=True)})
        for number, cells in enumerate(zip(*values, strict=True), 2)
    )
    return Table(path, columns, rows)


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():  # pandas writes integers with gaps so
        return str(int(value))
    return "" if value is None or value != value else str(value).strip()


def require_columns(table: Table, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Check that a table has the required columns, and return the columns to ignore.

    Raises:
        DataError: A required column is missing.
    """
    known = (*required, *optional)
    ignored = [name for name in table.columns if name and name not in known]
    for name in required:
        if name not in table.columns:
            near = did_you_mean(name, ignored)
            raise DataError(
                f"the header has no column {name!r}",
                where=str(table.path),
                got=",".join(table.columns),
                allowed=",".join(required) + f"[,{','.join(optional)}]",
                hint=near or None,
            )
    return ignored


@dataclass
class Cells:
    """Reads the cells of rows, and collects all problems with their rows' numbers.

    Attributes:
        root: The folder that paths are relative to, as an absolute path.
        problems: The problems, one line each.
    """

    root: Path
    problems: list[str] = field(default_factory=list)

    def path(self, number: int, cell: str, column: str = "path") -> str | None:
        """Return the normalised path relative to the root; None if it is invalid."""
        key = PurePosixPath(cell)
        if not cell:
            self.wrong(number, f"{column} is empty")
            return None
        if "\0" in cell:
            self.wrong(number, f"{column} holds a NUL character")
            return None
        if key.is_absolute() or (len(cell) > 1 and cell[1] == ":"):
            self.wrong(number, f"{column} must be a relative path: {cell}")
            return None
        if ".." in key.parts:
            self.wrong(number, f"{column} leads out of the folder: {cell}")
            return None
        target = self.root / key
        try:
            if not target.resolve().is_relative_to(self.root):
                self.wrong(number, f"{column} is a link out of the folder: {cell}")
                return None
        except (OSError, RuntimeError) as error:
            self.wrong(number, f"{column} cannot be followed: {error}")
            return None
        return str(key)

    def flag(self, number: int, cell: str, column: str) -> bool | None:
        """Return a cell as a truth value; None if it is neither true nor false."""
        word = cell.lower()
        if word not in (*_TRUE, *_FALSE):
            self.wrong(number, f"{column} must be 1 or 0, got {cell!r}")
            return None
        return word in _TRUE

    def word(self, number: int, cell: str, column: str) -> str | None:
        """Return a cell that must not be empty; None if it is empty."""
        if not cell:
            self.wrong(number, f"{column} is empty")
        return cell or None

    def box(self, number: int, cells: Sequence[str]) -> Box | None:
        """Return a box; None if all four cells are empty (the whole image) or invalid."""
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
        """Add a problem of a row."""
        self.problems.append(f"row {number}: {text}")
