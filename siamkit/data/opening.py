"""Data opening: reads the files and labels of the user's data, without reading the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from siamkit.config import SAMPLE, DataConfig
from siamkit.config.base import expanded
from siamkit.data.manifest import OPTIONAL, REQUIRED, read_manifest
from siamkit.data.sample import sample_dir
from siamkit.data.sources import FolderSource, ManifestSource, Source, TupleSource
from siamkit.data.tuple_table import OPTIONAL as KNOWN_OPTIONAL
from siamkit.data.tuple_table import PAIR, TRIPLET, read_lfw, read_tuples
from siamkit.errors import DataError
from siamkit.portable.cells import Cells
from siamkit.portable.folders import listed, scan
from siamkit.portable.tables import ENDINGS, Table, read_table
from siamkit.spelling import setting
from siamkit.words import plural


def open_source(
    path: str,
    root: Path | None = None,
    names: Mapping[str, str] | None = None,
    *,
    names_optional: bool = False,
) -> Source:
    """Read the files and labels of the data, without reading the images.

    Args:
        path: A folder of class folders; a table (CSV or Parquet) of images, pairs or triplets;
            LFW's ``pairs.txt``; or ``sample`` for the built-in images.
        root: The folder that a table's paths are relative to; None for the folder of the table.
        names: Maps siamkit's name of a column (``path``, ``label``) to the name in the table's
            header. Columns that are not in the mapping have siamkit's names.
        names_optional: Whether to ignore ``names`` if the data is not a table with these columns.

    Raises:
        DataError: The data has none of these forms, or has problems, which the message lists.
    """
    if path == SAMPLE:
        return FolderSource(scan(sample_dir()))
    target = expanded(Path(path))
    ending = target.suffix.lower()
    try:
        is_folder = target.is_dir()
        is_table = not is_folder and ending in (*ENDINGS, ".txt") and target.exists()
    except OSError:  # the scan of the folder says why
        is_folder = is_table = False
    if not is_table:
        if is_folder:
            _require_no_table(root, {} if names_optional else names, "a folder")
        return FolderSource(scan(target))
    root = (root or target.absolute().parent).resolve()
    _require_folder(root, "data.root")
    cells = Cells(root)
    if ending == ".txt":
        _require_no_table(None, {} if names_optional else names, "LFW's pairs")
        known = read_lfw(target, cells)
        _require_good(target, cells, ())
        return TupleSource(target, root, known, ())
    table = read_table(target, names, names_optional=names_optional)
    if not (table.rows or table.problems):
        raise DataError("the table has a header but no rows", where=str(target))
    if _names_tuples(table):
        known, notices = read_tuples(table, cells)
        _require_good(target, cells, table.problems)
        return TupleSource(target, root, known, notices)
    if not set(table.columns) & set(REQUIRED):
        raise _unknown_header(table, settable=not names_optional)
    records, notices = read_manifest(table, cells)
    _require_good(target, cells, table.problems)
    return ManifestSource(target, root, records, notices)


def names_tuples(config: DataConfig) -> bool:
    """Return whether the data is a table of pairs or triplets, by its name and header alone.

    A table that cannot be read counts as none, because its images may not be at hand yet.
    """
    target = expanded(Path(config.path))
    if config.path == SAMPLE or not target.is_file():
        return False
    if target.suffix.lower() not in ENDINGS:
        return target.suffix.lower() == ".txt"
    try:
        return _names_tuples(read_table(target, config.columns, names_optional=True))
    except DataError:
        return False


def _names_tuples(table: Table) -> bool:
    return bool(set(table.columns) & {*PAIR[:2], *TRIPLET}) and "path" not in table.columns


def _require_no_table(root: Path | None, names: Mapping[str, str] | None, got: str) -> None:
    given = {"data.root": root} | {f"data.{ours}_column": n for ours, n in (names or {}).items()}
    for key, value in given.items():
        if value is not None:
            raise DataError(f"can only be set for tables, not for {got}", where=key, got=str(value))


def _require_good(path: Path, cells: Cells, problems: Sequence[str]) -> None:
    every = [*problems, *cells.problems]
    if every:
        raise DataError(f"{plural(len(every), 'problem')}:{listed(every)}", where=str(path))


def _unknown_header(table: Table, settable: bool) -> DataError:
    """Return the error about a header.

    Args:
        table: The table.
        settable: Whether the user can say which columns hold the paths and the labels.
    """
    keys = "data.path_column", "data.label_column"
    name, other = (setting(key, "NAME") for key in keys)
    return DataError(
        "unknown header",
        where=str(table.path),
        got=",".join(table.columns),
        allowed=f"{','.join(REQUIRED)}[,{','.join(OPTIONAL)}] for images; "
        f"{','.join(PAIR)}[,{','.join(KNOWN_OPTIONAL)}] for pairs; "
        f"{','.join(TRIPLET)}[,{','.join(KNOWN_OPTIONAL)}] for triplets",
        hint=f"name the columns of images with {name} and {other}"
        if settable
        else "rename the columns of the table",
    )


def _require_folder(path: Path, where: str) -> None:
    """Check that a path is one of a folder.

    Raises:
        DataError: It is not, or cannot be reached.
    """
    try:
        problem = None if path.is_dir() else "no such folder"
    except OSError as error:
        problem = f"cannot read the folder: {error.strerror}"
    if problem is not None:
        raise DataError(problem, where=where, got=str(path))
