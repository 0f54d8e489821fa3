"""Tables: reads CSV and Parquet files into numbered rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError, did_you_mean
from ..files import require_unicode
from ..spelling import setting
from ..words import plural
from .decode import missing

ENDINGS = (".csv", ".tsv", ".parquet")
"""The file name endings of tables, in lower case."""

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
"""The columns that siamkit uses, over all kinds of tables."""

_DELIMITERS = (",", ";", "\t")
_PATHS = frozenset(("path", "a", "b", "anchor", "positive", "negative"))
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")


_NOT_UTF_8 = "not UTF-8, or holds U+FFFD, which stands for a character that was lost"
_MISSING = frozenset(("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "undefined"))


def missing_notices(noun: str, names: Iterable[str], of: str = "image") -> list[str]:
    """Return a notice for each name that looks like a missing value.

    Such a name is accepted, since it may be real: a person named Null, or the country NA.

    Args:
        noun: The kind of the names: ``class`` or ``group``.
        names: The class or group of each image, pair or triplet. Of a name with slashes, such as
            the path of a class folder, only the last part is looked at.
        of: The kind of the items that have the names: ``image``, ``pair`` or ``triplet``.
    """
    odd = Counter(name for name in names if name.rpartition("/")[2].lower() in _MISSING)
    return [
        f"the {noun} {name!r} of {plural(count, of)} looks like a missing value, but counts "
        f"as a {noun}; correct it if a value is missing"
        for name, count in sorted(odd.items())
    ]


@dataclass(frozen=True)
class Table:
    """The rows of a table, as text.

    Attributes:
        path: The file.
        columns: The names of the columns in lower case, after renaming to siamkit's names.
        rows: The number of each row and the row's cells by column. The header is row 1, as in a
            spreadsheet. Cells have no surrounding spaces.
        problems: The problems of rows that could not be read.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    problems: tuple[str, ...] = ()


Cell = Mapping[str, str]


def read_table(
    path: Path, names: Mapping[str, str] | None = None, *, names_optional: bool = False
) -> Table:
    """Read a CSV file (comma, semicolon or tab; UTF-8) or a Parquet file.

    The same rows give the same table from both kinds of file. If a column holds only whole numbers,
    ``1.0`` is read as ``1``: pandas writes so if the column has gaps.

    Args:
        path: The file.
        names: Maps siamkit's name of a column to the name in the file's header, for the columns
            that have another name there.
        names_optional: Whether to ignore ``names`` if the header lacks some of these columns.

    Raises:
        DataError: The file cannot be read, or its header is invalid.
        ConfigError: Parquet needs an extra that is not installed.
    """
    names = {ours: theirs.strip().lower() for ours, theirs in (names or {}).items()}
    is_parquet = path.suffix.lower() == ".parquet"
    header, rows, problems = (_parquet_rows if is_parquet else _csv_rows)(path, names)
    if names_optional and not set(names.values()) <= set(header):
        names = {}
    columns = _renamed(path, header, names)
    if repeated := [n for n, count in Counter(columns).items() if n and count > 1]:
        raise DataError(
            "the header has several columns of the same name",
            where=str(path),
            got=", ".join(repeated),
        )
    problems += [f"row {n}: {_NOT_UTF_8}" for n, cells in rows if any(map(_is_damaged, cells))]
    kept = [(n, cells) for n, cells in rows if any(cells) and not any(map(_is_damaged, cells))]
    whole = {
        place
        for place, column in enumerate(columns)
        if column not in _PATHS
        and all(_WHOLE.fullmatch(cells[place]) for _, cells in kept if cells[place])
    }
    named = tuple(
        (
            number,
            {
                column: _WHOLE.sub(r"\1", cell) if place in whole else cell
                for place, (column, cell) in enumerate(zip(columns, cells, strict=True))
            },
        )
        for number, cells in kept
    )
    return Table(path, columns, named, tuple(problems))


Rows = tuple[tuple[str, ...], list[tuple[int, list[str]]], list[str]]
"""The header, the cells of each row with its number, and the problems of other rows."""


def _renamed(path: Path, header: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the header with siamkit's names for columns that the user names otherwise."""
    for ours, theirs in names.items():
        if theirs not in header:
            raise DataError(
                f"the header has no column {theirs!r}",
                where=str(path),
                got=",".join(header),
                hint=did_you_mean(theirs, header)
                or f"correct {setting(f'data.{ours}_column')}, which names it",
            )
    if len(set(names.values())) < len(names):
        raise DataError(
            f"one column cannot hold {' and '.join(names)}",
            where=str(path),
            got=", ".join(names.values()),
        )
    ours_of = {theirs: ours for ours, theirs in names.items()}
    # A column that has siamkit's name, but is not the one that the user means, is ignored.
    others = {ours: f"{ours} (not used)" for ours in names}
    return tuple(ours_of.get(name) or others.get(name, name) for name in header)


def _csv_rows(path: Path, names: Mapping[str, str]) -> Rows:
    try:
        if problem := missing(path):  # a FIFO would block the read for ever
            raise DataError(problem, where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the table: {error.strerror}", where=str(path)) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("the table is UTF-16", where=str(path), hint="save it as UTF-8")
    lines = data.decode("utf-8-sig", errors="replace")
    first = lines.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    try:
        header = tuple(cell.strip().lower() for cell in next(reader, []))
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                problems.append(
                    f"row {number}: {plural(len(cells), 'cell')}, but the header has {len(header)}"
                )
            else:
                rows.append((number, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} cannot be read: {error}",
            where=str(path),
            hint="check for a missing quotation mark",
        ) from None
    if not any(header):
        raise DataError("the file is empty: it has no header", where=str(path))
    return header, rows, problems


def _parquet_rows(path: Path, names: Mapping[str, str]) -> Rows:
    require_unicode(path, "Parquet files")
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow",
            where=str(path),
            hint="pip install pyarrow, or save the table as CSV",
        ) from None
    try:
        if problem := missing(path):
            raise DataError(problem, where=str(path))
        raw = parquet.read_schema(path).names
        header = tuple(name.strip().lower() for name in raw)
        # Only the known columns are read: others may hold any type, and much data.
        wanted = KNOWN | set(names.values())
        places = [place for place, column in enumerate(header) if column in wanted]
        table = parquet.read_table(path, columns=[raw[place] for place in places])
        used = {*names.values(), *(("path", "label") if "path" in header else ())}
        for place, field in zip(places, table.schema, strict=True):
            if header[place] in used and pa.types.is_nested(field.type):
                raise DataError(
                    f"the column {header[place]!r} holds lists or records, not texts or numbers",
                    where=str(path),
                    got=str(field.type),
                    hint="write one text or number per row",
                )
        values = [table.column(i).to_pylist() for i in range(len(places))]
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the table: {reason}", where=str(path)) from None
    rows = []
    for number, given in enumerate(zip(*values, strict=True), 2):
        cells = [""] * len(header)
        for place, value in zip(places, given, strict=True):
            cells[place] = _text(value)
        rows.append((number, cells))
    return header, rows, []


def _is_damaged(cell: str) -> bool:
    return "\ufffd" in cell


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return "" if value is None or value != value else str(value).strip()


def require_columns(table: Table, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Check that a table has the required columns, and return the columns that are not used.

    Raises:
        DataError: A required column is missing.
    """
    known = (*required, *optional)
    ignored = [name for name in table.columns if name and name not in known]
    for name in required:
        if name not in table.columns:
            hints = [did_you_mean(name, ignored)]
            if name in ("path", "label"):
                hints.append(f"{setting(f'data.{name}_column', 'NAME')} takes another column")
            raise DataError(
                f"the header has no column {name!r}",
                where=str(table.path),
                got=",".join(table.columns),
                allowed=",".join(required) + f"[,{','.join(optional)}]",
                hint=" ".join(filter(None, hints)) or None,
            )
    return ignored
