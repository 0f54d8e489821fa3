"""Data as users have it, behind one interface: folders, manifests, pairs, triplets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from siamkit.data.folders import Scan, briefly
from siamkit.data.images import Box, ImageSet
from siamkit.data.manifest import SPLITS, Record, image_set
from siamkit.data.splits import (
    HoldOut,
    split_classes,
    split_groups,
)
from siamkit.data.tuple_splits import split_tuples
from siamkit.data.tuple_table import TupleTable
from siamkit.errors import DataError

Parts = dict[str, ImageSet]
"""Image sets by ``train``, ``val`` and ``test``; ``all`` where the data has no splits."""


class Source(Protocol):
    """Images, and what the data says of them."""

    @property
    def kind(self) -> str:
        """What it is, in words."""
        ...

    @property
    def where(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know."""
        ...

    def files(self) -> dict[Path, Box | None]:
        """Return every image file, and the extent of the boxes in it."""
        ...

    def without(self, bad: Collection[Path]) -> Source:
        """Return what is left when some files cannot be used."""
        ...

    def parts(self) -> Parts:
        """Return the image sets by the splits that the data gives."""
        ...

    def torn(self) -> list[str]:
        """Return the groups that the data's own splits have on more than one side."""
        ...

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Cut validation images off those that train.

        Returns:
            Train, validation, how they were split, and what the user should know.
        """
        ...

    def name_of(self, part: str) -> str:
        """Return what the data calls a part."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder of class folders, or of splits that hold them."""

    scan: Scan
    kind = "class folders"

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.scan.root)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was ignored."""
        folders = _split_folders(self.scan).values() or (None,)
        loose = {str(self.scan.root / (f or "")): self.scan.loose(f) for f in folders}
        ignored = (f"ignored {n} images in no class folder: {at}" for at, n in loose.items() if n)
        return (*self.scan.notices, *ignored)

    def files(self) -> dict[Path, Box | None]:
        """Return every image file; none has boxes."""
        return dict.fromkeys(self.scan.paths())

    def without(self, bad: Collection[Path]) -> FolderSource:
        """Return what is left when some files cannot be used."""
        return replace(self, scan=self.scan.without(bad))

    def parts(self) -> Parts:
        """Return the image sets by split folder."""
        names = _split_folders(self.scan)
        if not names:
            return {"all": _class_folders(self.scan, None)}
        return {part: _class_folders(self.scan, folder) for part, folder in names.items()}

    def torn(self) -> list[str]:
        """Return nothing: folders have no groups."""
        return []

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold classes out."""
        notices: list[str] = []
        return *split_classes(images, self.where, choice, notices), notices

    def name_of(self, part: str) -> str:
        """Return the folder's name."""
        return "the data" if part == "all" else f"{_split_folders(self.scan)[part]}/"


@dataclass(frozen=True)
class ManifestSource:
    """A table with a row for each image."""

    table: Path
    root: Path
    records: tuple[Record, ...]
    notices: tuple[str, ...]
    kind = "manifest"

    @property
    def where(self) -> str:
        """The table."""
        return str(self.table)

    def files(self) -> dict[Path, Box | None]:
        """Return every image file, and the extent of the boxes in it."""
        extents: dict[Path, Box | None] = {}
        for record in self.records:
            path = self.root / record.path
            if record.box is None:
                extents.setdefault(path, None)
            else:
                x1, y1, x2, y2 = extents.get(path) or record.box
                box = record.box
                extents[path] = min(x1, box[0]), min(y1, box[1]), max(x2, box[2]), max(y2, box[3])
        return extents

    def without(self, bad: Collection[Path]) -> ManifestSource:
        """Return what is left when some files cannot be used."""
        return replace(
            self, records=tuple(r for r in self.records if self.root / r.path not in bad)
        )

    def parts(self) -> Parts:
        """Return the image sets by the column ``split``."""
        splits = {record.split for record in self.records}
        if splits == {None}:
            return {"all": image_set(self.root, self.records)}
        return {
            part: image_set(self.root, (r for r in self.records if r.split == part))
            for part in ("train", "val", "test")
            if part in splits
        }

    def torn(self) -> list[str]:
        """Return the groups that the column ``split`` has on more than one side."""
        return _torn((record.group, record.split) for record in self.records)

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold groups out, or classes where there are none."""
        images = _without_roles(images)
        group = {record.key: record.group for record in self.records}
        groups = [group[sample.key] for sample in images.samples]
        if None in groups:
            notices: list[str] = []
            return *split_classes(images, self.where, choice, notices), notices
        named = [str(name) for name in groups]
        return *split_groups(images, named, self.where, choice), []

    def name_of(self, part: str) -> str:
        """Return the rows' name."""
        return "the table" if part == "all" else f"split {part}"


@dataclass(frozen=True)
class TupleSource:
    """Pairs or triplets."""

    table: Path
    root: Path
    known: TupleTable
    notices: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Pairs or triplets."""
        return "triplets" if self.known.same is None else "pairs"

    @property
    def where(self) -> str:
        """The file."""
        return str(self.table)

    def files(self) -> dict[Path, Box | None]:
        """Return every image file; none has boxes."""
        return dict.fromkeys(self.root / path for path in self.known.paths)

    def without(self, bad: Collection[Path]) -> TupleSource:
        """Return what is left when some files cannot be used."""
        dropped = frozenset(path for path in self.known.paths if self.root / path in bad)
        return replace(self, known=self.known.without(dropped))

    def parts(self) -> Parts:
        """Return the image sets by the column ``split``."""
        images = self.known.images(self.root)
        if self.known.splits is None:
            return {"all": images}
        splits = self.known.splits
        return {
            part: images.with_tuples(i for i, split in enumerate(splits) if split == part)
            for part in ("train", "val", "test")
            if part in splits
        }

    def torn(self) -> list[str]:
        """Return the groups that the column ``split`` has on more than one side."""
        known = self.known
        return _torn(zip(known.groups or (), known.splits or (), strict=False))

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold groups out, or what is connected where there are none."""
        groups: Sequence[str] | None = self.known.groups
        if groups is not None and self.known.splits is not None:
            groups = [
                group
                for group, split in zip(groups, self.known.splits, strict=True)
                if split == "train"
            ]
        return split_tuples(images, groups, self.where, choice)

    def name_of(self, part: str) -> str:
        """Return the rows' name."""
        return "the table" if part == "all" else f"split {part}"


def _without_roles(images: ImageSet) -> ImageSet:
    """Return images without query and gallery roles where those name none of them.

    Roles are often given for the test images alone.
    """
    if any(images.query or ()) and any(images.gallery or ()):
        return images
    return replace(images, query=None, gallery=None)


def _torn(rows: Iterable[tuple[str | None, str | None]]) -> list[str]:
    sides: dict[str, set[str]] = {}
    for group, split in rows:
        if group is not None and split is not None:
            sides.setdefault(group, set()).add(split)
    return sorted(group for group, splits in sides.items() if len(splits) > 1)


# --- splits that folders give --------------------------------------------------------------------


def _split_folders(scan: Scan) -> Mapping[str, str]:
    """Return the folder of each split by ``train``, ``val`` and ``test``; empty for none."""
    kinds = {name: SPLITS.get(name.lower()) for name in sorted(scan.top)}
    others = [name for name, kind in kinds.items() if kind is None]
    if others:
        nested = any(
            len(parts) > 1 and SPLITS.get(parts[0].lower()) == "train" for parts in scan.folders
        )
        if nested and {"val", "test"} & set(kinds.values()):
            raise DataError(
                "has train/ beside val/ or test/, and images in other folders too",
                where=str(scan.root),
                got=briefly(others),
                hint="move those elsewhere, or into one of the splits",
            )
        return {}
    if kinds and "train" not in kinds.values():
        raise DataError(
            "has no train/ with images beside these folders",
            where=str(scan.root),
            got=briefly(list(kinds)),
            hint="add train/, or rename them if they are classes",
        )
    result: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind in result:
            raise DataError(
                f"{result[kind]}/ and {name}/ are both the {kind} split",
                where=str(scan.root),
                hint="keep one",
            )
        result[str(kind)] = name
    return result


def _class_folders(scan: Scan, folder: str | None) -> ImageSet:
    images = scan.images(folder)
    if not images:
        raise DataError(
            f"{scan.loose(folder)} images lie directly in this folder, so in no class",
            where=str(scan.root / (folder or "")),
            hint="put each class's images into a folder of its own",
        )
    return images
