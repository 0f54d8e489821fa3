"""Overlap: finds the images of one set in another set, by path or by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.data.images import Sample
from siamkit.portable.geometry import whole_pixels
from siamkit.portable.threads import in_threads


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an image that is not stored in a file, as the file would have it.

    Attributes:
        size: The size of the file in bytes.
        sha256: The SHA-256 of the file's bytes.
    """

    size: int
    sha256: bytes


Image = Sample | Content


def found_in(images: Sequence[Image], known: Sequence[Sample]) -> list[bool | None]:
    """Return for each image whether it is one of the known images.

    Two images are the same if they have the same file, or files with the same content, and their
    boxes cut out the same pixels. A file is read only if its size equals that of a file of the
    other set.

    Args:
        images: The images.
        known: The known images.

    Returns:
        For each image, True if it is known and False if it is not. None if it was not found, but
        its file or one of the known files cannot be read.
    """
    places = {(_place(sample), whole_pixels(sample.box)) for sample in known}
    same_place = [
        isinstance(i, Sample) and (_place(i), whole_pixels(i.box)) in places for i in images
    ]
    left = [image for image, same in zip(images, same_place, strict=True) if not same]
    ours, theirs = _sizes(left), _sizes(known)
    shared = set(_lengths(left, ours)) & set(theirs.values()) - {None}
    read = {path for sizes in (ours, theirs) for path, size in sizes.items() if size in shared}
    content = dict(zip(read, in_threads(_sha256, list(read)), strict=True))
    contents = {
        (content[sample.path], whole_pixels(sample.box))
        for sample in known
        if content.get(sample.path) is not None
    }
    complete = None not in theirs.values() and None not in content.values()

    def found(image: Image) -> bool | None:
        if isinstance(image, Content):
            return True if (image.sha256, None) in contents else (False if complete else None)
        own = content.get(image.path)
        if own is not None and (own, whole_pixels(image.box)) in contents:
            return True
        return False if complete and ours[image.path] is not None else None

    return [same or found(i) for i, same in zip(images, same_place, strict=True)]


def _place(sample: Sample) -> str:
    return os.path.abspath(sample.path)  # noqa: PTH100 - keeps links, whose content is compared anyway


def _sizes(images: Sequence[Image]) -> Mapping[Path, int | None]:
    return {image.path: _size(image.path) for image in images if isinstance(image, Sample)}


def _lengths(images: Sequence[Image], sizes: Mapping[Path, int | None]) -> list[int | None]:
    return [i.size if isinstance(i, Content) else sizes[i.path] for i in images]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sha256(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
