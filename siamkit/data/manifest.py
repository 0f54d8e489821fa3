"""Manifests: a table with a row for each image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.data.images import Box, ImageSet, Sample
from siamkit.data.tables import Cells, Table, require_columns

REQUIRED = ("path", "label")
BOX = ("x1", "y1", "x2", "y2")
OPTIONAL = ("split", "group", "is_query", "is_gallery", *BOX)
SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""What a split may be called, in lower case, and which it is."""


@dataclass(frozen=True)
class Record:
    """A row of a manifest.

    Attributes:
        number: The row's number.
        path: The image's path, relative to the root.
        label: Its class.
        split: ``train``, ``val`` or ``test``; None where the table doesn't say.
        group: What must stay on one side: a patient, a writer; None where the table doesn't say.
        query: Whether it is searched for; None where the table doesn't say.
        gallery: Whether it is searched; None where the table doesn't say.
        box: The part of the file that is the image.
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
        """What the image is called: the path, and the box if there is one."""
        if self.box is None:
            return self.path
        return f"{self.path}#{','.join(f'{edge:.10g}' for edge in self.box)}"


def read_manifest(table: Table, cells: Cells) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return the rows of a manifest, and what the user should know; problems go to ``cells``.

    Raises:
        DataError: A required column is missing.
    """
    unknown = require_columns(table, REQUIRED, OPTIONAL)
    has = set(table.columns)
    boxed = bool(has & set(BOX))
    if boxed and not has >= set(BOX):
        cells.problems.append(f"the header has some of {','.join(BOX)}: all four are needed")
    records: list[Record] = []
    seen: dict[str, int] = {}
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
        if (first := seen.setdefault(record.key, number)) != number:
            cells.wrong(number, f"the image of row {first} again: {record.key}")
            continue
        records.append(record)
    notices = [f"columns that mean nothing here: {', '.join(unknown)}"] if unknown else []
    return tuple(records), tuple(notices)


def read_split(number: int, word: str, cells: Cells) -> str | None:
    """Return which split a row belongs to."""
    split = SPLITS.get(word.lower())
    if split is None:
        cells.wrong(number, f"split must be train, val or test, got {word!r}")
    return split


def image_set(root: Path, records: Iterable[Record]) -> ImageSet:
    """Return the images of some rows, sorted by label and key."""
    ordered: Sequence[Record] = sorted(records, key=lambda r: (r.label, r.key))
    classes = tuple(sorted({record.label for record in ordered}))
    number = {name: label for label, name in enumerate(classes)}
    samples = tuple(Sample(root / r.path, number[r.label], r.key, r.box) for r in ordered)

    def roles(name: str) -> tuple[bool, ...] | None:
        values = [getattr(record, name) for record in ordered]
        return None if all(value is None for value in values) else tuple(map(bool, values))

    return ImageSet(samples, classes, query=roles("query"), gallery=roles("gallery"))
