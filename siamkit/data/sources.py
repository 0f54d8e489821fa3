"""Data sources: one interface for folders, manifests, pairs and triplets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from siamkit.data.class_folders import class_images, structure_notices
from siamkit.data.images import ImageSet
from siamkit.data.manifest import SPLITS, Record, image_set
from siamkit.data.splits import (
    HoldOut,
    split_classes,
    split_groups,
)
from siamkit.data.tuple_splits import split_tuples
from siamkit.data.tuple_table import TupleTable
from siamkit.errors import DataError
from siamkit.portable.folders import Scan, briefly
from siamkit.portable.geometry import Boxed
from siamkit.words import plural

Parts = dict[str, ImageSet]
"""The image sets by split: ``train``, ``val``, ``test``; or ``all`` if the data has no splits."""


class Source(Protocol):
    """The user's data: images with their labels or tuples, their splits and their groups."""

    @property
    def kind(self) -> str:
        """The kind of the data, as text for the user."""
        ...

    @property
    def where(self) -> str:
        """The path of the data, for messages."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices for the user."""
        ...

    @property
    def root(self) -> Path | None:
        """The folder that a table's paths are relative to; None if the data is no table."""
        ...

    def images(self) -> Mapping[Boxed, int | None]:
        """Map each image to the number of its first row or line in a table; to None in a folder."""
        ...

    def without(self, bad: Collection[Boxed]) -> Source:
        """Return the source without the images ``bad``."""
        ...

    def parts(self) -> Parts:
        """Return the image sets by the data's own splits."""
        ...

    def split_groups(self) -> list[str]:
        """Return the groups that are in more than one of the data's own splits."""
        ...

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Split training images into training and validation images.

        Returns:
            The training set, the validation set, a description of the split, and notices.
        """
        ...

    def name_of(self, part: str) -> str:
        """Return the name that the data gives to a part (a key of :meth:`parts`), for messages."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder of class folders, or of split folders that hold class folders."""

    scan: Scan
    kind = "class folders"
    root = None

    @property
    def where(self) -> str:
        """The path of the folder, for messages."""
        return str(self.scan.root)

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the files and folders that were ignored."""
        folders: Collection[str | None] = list(_split_folders(self.scan).values()) or [None]
        loose = {str(self.scan.root / (f or "")): self.scan.loose(f) for f in folders}
        ignored = (
            f"ignored {plural(number, 'image')} outside class folders: {folder}"
            for folder, number in loose.items()
            if number
        )
        about = (text for folder in folders for text in structure_notices(self.scan, folder))
        return (*self.scan.notices, *ignored, *about)

    def images(self) -> Mapping[Boxed, None]:
        """Map each image to None, because folders have no rows."""
        return dict.fromkeys((path, None) for path in self.scan.paths())

    def without(self, bad: Collection[Boxed]) -> FolderSource:
        """Return the source without the images ``bad``."""
        return replace(self, scan=self.scan.without({path for path, _ in bad}))

    def parts(self) -> Parts:
        """Return the image sets by split folder."""
        names = _split_folders(self.scan)
        if not names:
            return {"all": _class_folders(self.scan, None)}
        return {part: _class_folders(self.scan, folder) for part, folder in names.items()}

    def split_groups(self) -> list[str]:
        """Return an empty list, because folders have no groups."""
        return []

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold out classes, or images of each class if there are too few classes."""
        notices: list[str] = []
        return *split_classes(images, self.where, choice, notices), notices

    def name_of(self, part: str) -> str:
        """Return the name of the split folder, for messages."""
        return "the data" if part == "all" else f"{_split_folders(self.scan)[part]}/"


@dataclass(frozen=True)
class ManifestSource:
    """A table with one row per image."""

    table: Path
    root: Path
    records: tuple[Record, ...]
    notices: tuple[str, ...]
    kind = "manifest"

    @property
    def where(self) -> str:
        """The path of the table."""
        return str(self.table)

    def images(self) -> Mapping[Boxed, int]:
        """Map each image to the number of its row."""
        return {(self.root / r.path, r.box): r.number for r in self.records}

    def without(self, bad: Collection[Boxed]) -> ManifestSource:
        """Return the source without the images ``bad``."""
        left = (r for r in self.records if (self.root / r.path, r.box) not in bad)
        return replace(self, records=tuple(left))

    def parts(self) -> Parts:
        """Return the image sets by the column ``split``."""
        splits = {record.split for record in self.records}
        if splits == {None}:
            return {"all": image_set(self.root, self.records)}
        sets: Parts = {
            part: image_set(self.root, (r for r in self.records if r.split == part))
            for part in ("train", "val", "test")
            if part in splits
        }
        # Tables often give roles to the test images only.
        if "val" in sets and not any((*(sets["val"].query or ()), *(sets["val"].gallery or ()))):
            sets["val"] = replace(sets["val"], query=None, gallery=None)
        return sets

    def split_groups(self) -> list[str]:
        """Return the groups that are in more than one split."""
        return _split_groups((record.group, record.split) for record in self.records)

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold out groups; without groups, hold out classes as for a folder."""
        images = _without_roles(images)
        group = {record.key: record.group for record in self.records}
        groups = [group[sample.key] for sample in images.samples]
        if None in groups:
            notices: list[str] = []
            return *split_classes(images, self.where, choice, notices), notices
        named = [str(name) for name in groups]
        return *split_groups(images, named, self.where, choice), []

    def name_of(self, part: str) -> str:
        """Return the name of a split's rows, for messages."""
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
        """``pairs`` or ``triplets``."""
        return "triplets" if self.known.same is None else "pairs"

    @property
    def where(self) -> str:
        """The path of the table."""
        return str(self.table)

    def images(self) -> Mapping[Boxed, int]:
        """Map each image to the number of its first row or line."""
        numbers: dict[str, int] = {}
        for row, number in zip(self.known.rows, self.known.numbers, strict=True):
            for path in row:
                numbers.setdefault(path, number)
        return {(self.root / path, None): numbers[path] for path in self.known.paths}

    def without(self, bad: Collection[Boxed]) -> TupleSource:
        """Return the source without the pairs or triplets of the images ``bad``."""
        dropped = frozenset(path for path in self.known.paths if (self.root / path, None) in bad)
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

    def split_groups(self) -> list[str]:
        """Return the groups that are in more than one split."""
        known = self.known
        return _split_groups(zip(known.groups or (), known.splits or (), strict=False))

    def hold_out(
        self, images: ImageSet, choice: HoldOut
    ) -> tuple[ImageSet, ImageSet, str, list[str]]:
        """Hold out groups; without groups, hold out connected images."""
        groups: Sequence[str] | None = self.known.groups
        if groups is not None and self.known.splits is not None:
            groups = [
                group
                for group, split in zip(groups, self.known.splits, strict=True)
                if split == "train"
            ]
        return split_tuples(images, groups, self.where, choice)

    def name_of(self, part: str) -> str:
        """Return the name of a split's rows, for messages."""
        return "the table" if part == "all" else f"split {part}"


def _without_roles(images: ImageSet) -> ImageSet:
    """Return images without query and gallery roles if no image is a query or none is in a gallery.

    Tables often give roles to the test images only.
    """
    # Without a column, every image has the role.
    if all(role is None or any(role) for role in (images.query, images.gallery)):
        return images
    return replace(images, query=None, gallery=None)


def _split_groups(rows: Iterable[tuple[str | None, str | None]]) -> list[str]:
    sides: dict[str, set[str]] = {}
    for group, split in rows:
        if group is not None and split is not None:
            sides.setdefault(group, set()).add(split)
    return sorted(group for group, splits in sides.items() if len(splits) > 1)


# --- the splits of a folder ----------------------------------------------------------------------


def _split_folders(scan: Scan) -> Mapping[str, str]:
    """Map ``train``, ``val`` and ``test`` to their folders; empty if there are no split folders."""
    kinds = {name: SPLITS.get(name.lower()) for name in sorted(scan.top)}
    others = [name for name, kind in kinds.items() if kind is None]
    if others:
        nested = any(
            len(parts) > 1 and SPLITS.get(parts[0].lower()) == "train" for parts in scan.folders
        )
        if nested and {"val", "test"} & set(kinds.values()):
            raise DataError(
                "has train/ beside val/ or test/, but also images in other folders",
                where=str(scan.root),
                got=briefly(others),
                hint="move these folders into one of the splits, or out of the data folder",
            )
        return {}
    if kinds and "train" not in kinds.values():
        raise DataError(
            "has split folders, but no train/ with images",
            where=str(scan.root),
            got=briefly(list(kinds)),
            hint="add train/, or rename the folders if they are classes",
        )
    result: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind in result:
            raise DataError(
                f"{result[kind]}/ and {name}/ are both the {kind} split",
                where=str(scan.root),
                hint="keep only one of them",
            )
        result[str(kind)] = name
    return result


def _class_folders(scan: Scan, folder: str | None) -> ImageSet:
    images = class_images(scan, folder)
    if not (images or scan.loose(folder)):
        raise DataError("there is no readable image", where=str(scan.root / (folder or "")))
    if not images:
        raise DataError(
            f"all images ({scan.loose(folder)}) are directly in this folder, outside class folders",
            where=str(scan.root / (folder or "")),
            hint="put the images of each class into its own folder",
        )
    return images
