"""Folders: scans a folder, at any depth, for images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..errors import DataError
from ..words import plural
from .endings import holds_image, image_endings, is_image_name, is_other_image_name
from .tables import ENDINGS

_LISTED = 10

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Scan:
    """The images in a folder.

    Attributes:
        root: The folder, as an absolute path.
        folders: The names of the image files in each folder. A key is the folder's path below
            ``root``, as a tuple of its parts.
        notices: The entries that were left out, with the reason.
    """

    root: Path
    folders: Mapping[Parts, tuple[str, ...]]
    notices: tuple[str, ...] = ()

    @property
    def top(self) -> frozenset[str]:
        """Names of the folders directly in ``root`` that hold images at any depth."""
        return frozenset(parts[0] for parts in self.folders if parts)

    def paths(self) -> list[Path]:
        """Return the paths of all image files."""
        return [
            self.root.joinpath(*parts, name)
            for parts, names in self.folders.items()
            for name in names
        ]

    def without(self, paths: Collection[Path]) -> Scan:
        """Return the scan without the files at ``paths``."""
        kept = {
            parts: tuple(n for n in names if self.root.joinpath(*parts, n) not in paths)
            for parts, names in self.folders.items()
        }
        return replace(self, folders={parts: names for parts, names in kept.items() if names})

    def loose(self, within: str | None = None) -> int:
        """Return the number of images directly in ``root`` or ``within``, outside class folders."""
        return len(self.folders.get(() if within is None else (within,), ()))


@dataclass
class _Walk:
    folders: dict[Parts, tuple[str, ...]] = field(default_factory=dict)
    visited: set[Parts] = field(default_factory=set)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    escaping: list[str] = field(default_factory=list)
    circular: list[str] = field(default_factory=list)


def scan(root: Path, hint: str = "put each class's images into a folder of its own") -> Scan:
    """Scan a folder for images.

    Hidden entries, files that aren't images and folders without images are left out and named in
    the notices.

    Args:
        root: The folder.
        hint: The next step if the folder holds no images, for the message.

    Raises:
        DataError: ``root`` isn't a folder, cannot be read, holds no images, or has links that lead
            out of it.
    """
    try:
        if not root.is_dir():
            raise _not_a_folder(root)
        root = root.resolve()
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror}", where=str(root)) from None
    walk = _Walk()
    pending: list[tuple[Path, Parts, frozenset[Path]]] = [(root, (), frozenset([root]))]
    while pending:
        pending.extend(_visit(*pending.pop(), root, walk))
    if walk.escaping:
        raise DataError(
            f"{plural(len(walk.escaping), 'symbolic link')} out of the folder:"
            + listed(sorted(walk.escaping)),
            where=str(root),
            hint="copy the images into the folder, or pass a folder that contains both",
        )
    if not walk.folders:
        names = [*walk.unread, *walk.others]
        endings = Counter(PurePosixPath(name).suffix.lower() or name for name in names)
        listing = ", ".join(f"{ending} ({n})" for ending, n in endings.most_common(5))
        raise DataError(
            "no images in this folder",
            where=str(root),
            got=listing or None,
            allowed=" ".join(sorted(image_endings())),
            hint=f"{_rename(walk)}{hint}",
        )
    return Scan(root, dict(sorted(walk.folders.items())), _notices(walk))


def _visit(
    folder: Path, parts: Parts, ancestors: frozenset[Path], root: Path, walk: _Walk
) -> list[tuple[Path, Parts, frozenset[Path]]]:
    """Record the entries of ``folder``; return the folders in it to visit next."""
    walk.visited.add(parts)
    images: list[str] = []
    inner: list[tuple[Path, Parts, frozenset[Path]]] = []
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror}", where=str(folder)) from None
    for entry in entries:
        name, key = entry.name, "/".join((*parts, entry.name))
        if name.startswith("."):
            walk.hidden.append(key)
            continue
        target = Path(entry.path)
        if entry.is_symlink():
            try:
                target = target.resolve(strict=True)
            except (OSError, RuntimeError):  # dangling or circular: the image check reports it
                pass
            else:
                if not target.is_relative_to(root):
                    walk.escaping.append(key)
                    continue
        if target.is_dir():
            if target in ancestors:  # following the link would never end
                walk.circular.append(key)
            else:
                inner.append((target, (*parts, name), ancestors | {target}))
        elif is_image_name(name):
            images.append(name)
        else:
            is_table = target.suffix.lower() in ENDINGS
            is_image = is_other_image_name(name) or (not is_table and holds_image(target))
            (walk.unread if is_image else walk.others).append(key)
    if images:
        walk.folders[parts] = tuple(sorted(images))
    return inner


def _notices(walk: _Walk) -> tuple[str, ...]:
    used = {parts[:depth] for parts in walk.folders for depth in range(len(parts) + 1)}
    unused = walk.visited - used
    # The empty subfolders of an empty folder are not listed.
    empty = ["/".join(parts) for parts in unused if parts[:-1] not in unused]
    kinds = (
        (walk.hidden, "hidden file or folder", "hidden files or folders"),
        (walk.others, "file that is not an image", "files that are not images"),
        (walk.circular, "link to a folder around it", "links to folders around them"),
        (empty, "folder without images", "folders without images"),
    )
    ignored = [
        f"ignored {plural(len(names), one, many)}: {briefly(sorted(names))}"
        for names, one, many in kinds
        if names
    ]
    if walk.unread:
        ignored.insert(0, _unread_notice(sorted(walk.unread), empty))
    return tuple(ignored)


def _unread_notice(names: Sequence[str], empty: Sequence[str]) -> str:
    lost = [folder for folder in sorted(empty) if any(n.startswith(f"{folder}/") for n in names)]
    folders = f"; {plural(len(lost), 'folder')} lost with them: {briefly(lost)}" if lost else ""
    return (
        f"left out {plural(len(names), 'image')} whose format or name siamkit does not read: "
        f"{briefly(names)}{folders}; {_HOW}"
    )


def _rename(walk: _Walk) -> str:
    return f"{_HOW}; " if walk.unread else ""


_HOW = "convert images to PNG or JPEG, or give them the ending of their format"


def _not_a_folder(path: Path) -> DataError:
    if path.exists():
        return DataError(
            "not a folder",
            where=str(path),
            hint="pass a folder of class folders (unpack an archive first), a table of images, "
            "pairs or triplets (.csv, .tsv, .parquet), LFW's pairs.txt, or 'sample' for the "
            "built-in images",
        )
    return DataError(
        "no such file or folder",
        where=str(path),
        hint="pass a folder of class folders, a table of images or pairs, or 'sample' for the "
        "built-in images",
    )


def files_in(path: Path) -> list[Path]:
    """Return the image files of a folder at any depth, sorted by path; or the file at the path.

    Raises:
        DataError: There is no such file or folder, or it cannot be reached, or the folder holds no
            images.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"cannot read the folder: {error.strerror}", where=str(path)) from None
    if not is_there:
        raise DataError("no such file or folder", where=str(path))
    if not is_folder:
        return [path]
    folder = scan(path, "choose a folder that holds images, or an image")
    keys = sorted((*parts, name) for parts, names in folder.folders.items() for name in names)
    return [folder.root.joinpath(*key) for key in keys]


def briefly(names: Sequence[str], limit: int = 3) -> str:
    """Return a line with the first few names and the number of further names."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def listed(lines: Sequence[str]) -> str:
    """Return a text of the first lines, indented, and the number of further lines."""
    more = len(lines) - _LISTED
    shown = [*lines[:_LISTED], *([f"... and {more} more"] if more > 0 else [])]
    return "".join(f"\n  {line}" for line in shown)
