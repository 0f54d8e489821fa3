"""Manifests: tables with one row per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet, Sample
from siamkit.portable.cells import Cells
from siamkit.portable.geometry import Box
from siamkit.portable.tables import Table, missing_notices, require_columns

REQUIRED = ("path", "label")
BOX = ("x1", "y1", "x2", "y2")
OPTIONAL = ("split", "group", "is_query", "is_gallery", *BOX)
SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Maps each accepted name of a split, in lower case, to the split."""


@dataclass(frozen=True)
class Record:
    """A row of a manifest.

    Attributes:
        number: The row's number. The header is row 1.
        path: The image's path, relative to the data's root folder.
        label: The image's class.
        split: ``train``, ``val`` or ``test``; None if the table has no such column.
        group: The group, such as a patient or a writer, whose images must stay in one split; None
            if the table has no such column.
        query: Whether the image is a query; None if not given.
        gallery: Whether the image is in the gallery; None if not given.
        box: The part of the file that is the image; None for the whole file.
    """

    number: int
    path: str
    label: str
    split: str | None = None
    group: str | None = None
    query: bool | None = None
    gallery: bool | None = None
    box: Box | None = None

    @property
    def key(self) -> str:
        """The key of the image: the path, followed by the box if there is one."""
        if self.box is None:
            return self.path
        return f"{self.path}#{','.join(f'{edge:.10g}' for edge in self.box)}"


def read_manifest(table: Table, cells: Cells) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return the rows of a manifest, and notices for the user.

    Args:
        table: The table.
        cells: Reads the cells and collects their problems. Rows with problems may be missing in the
            result.

    Raises:
        DataError: A required column is missing.
    """
    unknown = require_columns(table, REQUIRED, OPTIONAL)
    has = set(table.columns)
    boxed = bool(has & set(BOX))
    if boxed and not has >= set(BOX):
        cells.problems.append(f"the header must have all of {','.join(BOX)} or none of them")
    records: list[Record] = []
    row_of: dict[str, int] = {}
    for number, row in table.rows:
        path = cells.path(number, row["path"])
        label = cells.word(number, row["label"], "label")
        split = read_split(number, row["split"], cells) if "split" in has else None
        group = cells.word(number, row["group"], "group") if "group" in has else None
        roles = [
            cells.flag(number, row[name], name) if row.get(name) else None
            for name in ("is_query", "is_gallery")
        ]
        box = cells.box(number, [row[name] for name in BOX]) if has >= set(BOX) else None
        if path is None or label is None:
            continue
        record = Record(number, path, label, split, group, roles[0], roles[1], box)
        if (first := row_of.setdefault(record.key, number)) != number:
            cells.wrong(number, f"repeats the image of row {first}: {record.key}")
            continue
        records.append(record)
    notices = [f"ignored columns: {', '.join(unknown)}"] if unknown else []
    groups = [record.group for record in records if record.group]
    notices += [*missing_notices("group", groups), *alike_notices("group", groups)]
    return tuple(records), tuple(notices)


def read_split(number: int, word: str, cells: Cells) -> str | None:
    """Return the split that ``word`` names. If it names none, add a problem and return None."""
    split = SPLITS.get(word.lower())
    if split is None:
        cells.wrong(number, f"split must be train, val or test, got {word!r}")
    return split


def image_set(root: Path, records: Iterable[Record]) -> ImageSet:
    """Return the images of the rows, sorted by label and key. ``root`` is the data's folder."""
    ordered: Sequence[Record] = sorted(records, key=lambda r: (r.label, r.key))
    classes = tuple(sorted({record.label for record in ordered}))
    number = {name: label for label, name in enumerate(classes)}
    samples = tuple(Sample(root / r.path, number[r.label], r.key, r.box) for r in ordered)

    def roles(name: str) -> tuple[bool, ...] | None:
        values = [getattr(record, name) for record in ordered]
        return None if all(value is None for value in values) else tuple(map(bool, values))

    return ImageSet(samples, classes, query=roles("query"), gallery=roles("gallery"))
