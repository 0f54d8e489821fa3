"""Leaks: finds images that are in two splits, or twice in one. Their metrics are too optimistic.

The result lists groups, not pairs: a file with N copies gives one group of N + 1 images, not about
N²/2 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamkit.data.hamming import near_groups
from siamkit.data.images import ImageSet, Sample
from siamkit.data.rowkeys import each_digest
from siamkit.errors import DataError
from siamkit.portable.decode import RGB, Decoding, with_decoded
from siamkit.portable.folders import listed
from siamkit.portable.geometry import whole_pixels
from siamkit.portable.threads import in_threads
from siamkit.spelling import command
from siamkit.words import plural

NEAR_BITS = 4
"""The perceptual hashes of near duplicates differ in at most this many of 64 bits. Near duplicates
are, for example, rescaled, recompressed or slightly recoloured images."""

_THREADS = 4

T = TypeVar("T")
Sets = Mapping[str, ImageSet]
OnProgress = Callable[[str, int, int], None]
"""Called with a step's name, its number of finished images and its number of images. It may raise
to stop the work."""


def no_progress(step: str, done: int, total: int) -> None:
    """Show no progress."""


def counted(items: Iterable[T], progress: OnProgress, step: str, total: int) -> Iterator[T]:
    """Yield the items of a step, and call ``progress`` before the first item and with each item."""
    if total:
        progress(step, 0, total)
    for done, item in enumerate(items, 1):
        progress(step, done, total)
        yield item


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a group.

    Attributes:
        part: The name of the image set that holds the image.
        key: The image's key.
        label: The name of the image's class.
    """

    part: str
    key: str
    label: str


@dataclass(frozen=True)
class Group:
    """Two or more images with the same, or nearly the same, content."""

    members: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def parts(self) -> list[str]:
        """The names of the image sets that hold the images."""
        return list(dict.fromkeys(member.part for member in self.members))

    @property
    def labels(self) -> list[str]:
        """The classes of the images."""
        return list(dict.fromkeys(member.label for member in self.members))

    def __str__(self) -> str:
        """Return the keys of two images, if possible of two splits, and the number of the rest."""
        first = self.members[0]
        other = next((m for m in self.members if m.part != first.part), self.members[1])
        more = f", and {plural(len(self) - 2, 'more image')}" if len(self) > 2 else ""
        return f"{first.key} ({first.part}) and {other.key} ({other.part}){more}"


class Contents:
    """The images of several image sets, compared by content. Two boxes of a file are two images.

    To compare contents, a file is read only if another file has the same size.

    Args:
        sets: The image sets.
        progress: Called before the first file is read, and after each one.
        how: How the images are decoded.

    Raises:
        DataError: A file cannot be read.
    """

    def __init__(
        self, sets: Sets, progress: OnProgress = no_progress, *, how: Decoding = RGB
    ) -> None:
        self._sets, self._how = sets, replace(how, channels=1)
        self._samples = [sample for images in sets.values() for sample in images.samples]
        self._parts = list(sets)
        self._part = np.repeat(np.arange(len(sets)), [len(images) for images in sets.values()])
        self._number = _numbers(self._samples, progress)  # [N]: equal for equal contents

    def leaks(self) -> list[Group]:
        """Return the groups of images that have the same content and are in two or more sets."""
        return [group for group in self._same() if len(group.parts) > 1]

    def conflicts(self) -> list[Group]:
        """Return the groups of images that have the same content but different labels.

        Sets with known pairs or triplets are left out, because their images have no labels.
        """
        labelled = {part for part, images in self._sets.items() if images.tuples is None}
        groups = []
        for group in self._same():
            members = tuple(member for member in group.members if member.part in labelled)
            if len({member.label for member in members}) > 1:
                groups.append(Group(members))
        return groups

    def copies(self) -> list[Group]:
        """Return the groups of images that have the same content, in one set and of one class."""
        return [g for g in self._same() if len(g.parts) == 1 and len(g.labels) == 1]

    def repeated(self, part: str) -> int:
        """Return how many images of a set have the content of another image of their class in it.

        Such an image is its own nearest neighbour under another name.
        """
        here = np.flatnonzero(self._part == self._parts.index(part))
        labels = [self._samples[index].label for index in here.tolist()]
        if not labels:
            return 0
        _, counts = np.unique([self._number[here], labels], axis=1, return_counts=True)
        return int(counts[counts > 1].sum())

    def near_duplicates(self, progress: OnProgress = no_progress) -> list[Group]:
        """Return the groups of images that look the same and are in two or more sets.

        Images are compared by ``imagehash``'s pHash: 64 bits of the low frequencies of a small grey
        version. Two images whose hashes differ in at most :data:`NEAR_BITS` bits are linked, and a
        group holds all images that links connect. Images of one colour have no meaningful hash and
        are left out. Groups whose images all have the same content are left out too; see
        :meth:`leaks`.

        Args:
            progress: Called before the first image, and after each one.

        Raises:
            DataError: An image cannot be decoded.
        """
        contents, first = np.unique(self._number, return_index=True)
        hashes = np.zeros(len(contents), np.uint64)
        samples = [self._samples[index] for index in first]
        hash_of = partial(_perceptual_hash, how=self._how)
        values = in_threads(hash_of, samples, _THREADS)
        for index, value in enumerate(counted(values, progress, "compare images", len(samples))):
            hashes[index] = value
        distinct, place = np.unique(hashes, return_inverse=True)
        group = near_groups(distinct, NEAR_BITS)[place]  # the group of each different content
        of_image = np.where(hashes == 0, -1, group)[self._number]
        return [
            members
            for chosen, members in self._groups(of_image)
            if len(members.parts) > 1 and len(np.unique(self._number[chosen])) > 1
        ]

    def _same(self) -> list[Group]:
        return [members for _, members in self._groups(self._number)]

    def _groups(self, number: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], Group]]:
        """Yield each group of two or more images with the same number, the largest group first.

        Args:
            number: The number ``[N]`` of each image. A negative number means that the image is in
                no group.

        Yields:
            The indices of the images in the group, and the group.
        """
        grouped = number >= 0
        counts = np.bincount(number[grouped])
        grouped[grouped] = counts[number[grouped]] > 1
        order = np.flatnonzero(grouped)
        order = order[np.argsort(number[order], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []
        for chosen in sorted(groups, key=lambda chosen: (-len(chosen), chosen[0])):
            yield chosen, Group(tuple(self._member(index) for index in chosen.tolist()))

    def _member(self, index: int) -> Member:
        part, sample = self._parts[self._part[index]], self._samples[index]
        return Member(part, sample.key, self._sets[part].classes[sample.label])


def _numbers(samples: Sequence[Sample], progress: OnProgress) -> NDArray[np.int64]:
    """Return a number ``[N]`` for the content of each image: 0, 1, ... by first occurrence."""
    by_size: dict[int, set[Path]] = {}
    for path in dict.fromkeys(sample.path for sample in samples):
        by_size.setdefault(_size(path), set()).add(path)
    paths = list(chain.from_iterable(sorted(some) for some in by_size.values() if len(some) > 1))
    found = counted(each_digest(paths), progress, "compare files", len(paths))
    content = {path: digest.sha256 for path, digest in zip(paths, found, strict=True)}
    numbers: dict[object, int] = {}
    return np.fromiter(
        (
            numbers.setdefault((content.get(s.path, s.path), whole_pixels(s.box)), len(numbers))
            for s in samples
        ),
        np.int64,
        len(samples),
    )  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", where=str(path)) from None


def _perceptual_hash(sample: Sample, how: Decoding) -> int:
    """Return the perceptual hash of an image; 0 for an image of one colour."""
    from imagehash import phash

    def hash_of(image: Image.Image) -> int:
        low, high = image.getextrema()
        return 0 if low == high else int(str(phash(image)), 16)

    return with_decoded(sample.path, how, sample.box, hash_of)


def require_apart(contents: Contents, where: str, *, strict: bool) -> list[str]:
    """Return a notice if the same image is in two splits.

    Args:
        contents: The images of all splits.
        where: The path of the data, for error messages.
        strict: Whether to raise an error instead.

    Raises:
        DataError: The same image is in two splits, and ``strict`` is set.
    """
    shared = contents.leaks()
    if not shared:
        return []
    what = f"{plural(len(shared), 'group')} of images with the same content"
    what += f" {'is' if len(shared) == 1 else 'are'} in two splits:"
    hint = "the network may have seen these images in training, so metrics are too optimistic"
    if strict:
        raise DataError(what + listed([str(group) for group in shared]), where=where, hint=hint)
    few = listed([str(group) for group in shared[:3]])
    return [f"{what}{few}\n  {hint}; {command('data check', 'DATA')} lists them"]


def repeated_notices(contents: Contents, part: str, noun: str) -> list[str]:
    """Return a notice if images of a split have copies of their class in it; none if none have.

    Args:
        contents: The images of the split, and perhaps of others.
        part: The split, on which a network is measured.
        noun: The name of one of its images in the notice.
    """
    count = contents.repeated(part)
    if not count:
        return []
    return [
        f"{plural(count, noun)} have a copy of the same class beside them, which any network "
        "finds, so metrics are too optimistic: keep one of each; "
        f"{command('data check', 'DATA')} lists them"
    ]
