"""Leaks: finds images that are in two splits, on which metrics show memory instead of skill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamkit.data.decode import decode
from siamkit.data.folders import listed
from siamkit.data.images import ImageSet, Sample
from siamkit.data.rowkeys import digests
from siamkit.errors import DataError
from siamkit.spelling import command
from siamkit.words import plural

NEAR_BITS = 4
"""The largest number of different bits, of 64, in the perceptual hashes of near duplicates, such as
rescaled, recompressed or slightly recoloured images."""

_THREADS = 4
_BLOCK = 1 << 22  # comparisons at a time

Sets = Mapping[str, ImageSet]


@dataclass(frozen=True)
class Twins:
    """Two images with the same or nearly the same content.

    Attributes:
        parts: The image sets that they are in.
        keys: Their keys.
        classes: Their classes.
        bits: The number of different bits, of 64, in their perceptual hashes; None for the same
            content.
    """

    parts: tuple[str, str]
    keys: tuple[str, str]
    classes: tuple[str, str]
    bits: int | None = None

    def __str__(self) -> str:
        (one, other), (a, b) = self.parts, self.keys
        return f"{a} ({one}) and {b} ({other})"


def leaks(sets: Sets) -> list[Twins]:
    """Return the images with the same content that are in two of the sets.

    Only files of equal size are read. Two boxes of one file are two images.
    """
    by_size: dict[int, set[Path]] = {}
    for images in sets.values():
        for sample in images.samples:
            by_size.setdefault(sample.path.stat().st_size, set()).add(sample.path)
    paths = [path for group in by_size.values() if len(group) > 1 for path in sorted(group)]
    content = {path: digest.sha256 for path, digest in zip(paths, digests(paths), strict=True)}
    return _across(sets, lambda sample: (content.get(sample.path, sample.path), sample.box))


def conflicts(images: ImageSet) -> list[Twins]:
    """Return the images with the same content and different labels in one set."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(images.labels):
        members.setdefault(images.classes[label], []).append(index)
    return leaks({name: images.subset(chosen) for name, chosen in members.items()})


def _across(sets: Sets, content: Callable[[Sample], object]) -> list[Twins]:
    by_content: dict[object, dict[str, list[tuple[str, str]]]] = {}
    for part, images in sets.items():
        for sample in images.samples:
            by_part = by_content.setdefault(content(sample), {})
            by_part.setdefault(part, []).append((sample.key, images.classes[sample.label]))
    return [
        Twins((a, b), (one[0], other[0]), (one[1], other[1]))
        for by_part in by_content.values()
        for a, b in combinations(by_part, 2)
        for one, other in product(by_part[a], by_part[b])
    ]


def require_apart(sets: Sets, where: str, *, strict: bool) -> list[str]:
    """Return a notice if images are in two splits.

    Args:
        sets: The image sets by split.
        where: The data, for errors.
        strict: Whether to raise an error instead.

    Raises:
        DataError: Images are in two splits, and ``strict`` is set.
    """
    shared = leaks(sets)
    if not shared:
        return []
    what = f"{plural(len(shared), 'pair of images', 'pairs of images')} with the same content"
    what += f" {'is' if len(shared) == 1 else 'are'} in two splits:"
    hint = "metrics on them show memory, not skill"
    if strict:
        raise DataError(what + listed([str(twins) for twins in shared]), where=where, hint=hint)
    few = listed([str(twins) for twins in shared[:3]])
    return [f"{what}{few}\n  {hint}; {command('data check', 'DATA')} lists them"]


def near_duplicates(sets: Sets, check: Callable[[], None] = lambda: None) -> list[Twins]:
    """Return images of two of the sets that look the same, by perceptual hash.

    The hash is ``imagehash``'s pHash: 64 bits of the low frequencies of a small grey version.
    Images of one colour have no meaningful hash and are left out. So are images with the same
    content; see :func:`leaks`.

    Args:
        sets: The image sets.
        check: Called after each image; may raise to stop.
    """
    hashes = {part: _hashes(images.samples, check) for part, images in sets.items()}
    same = {tuple(sorted(twins.keys)) for twins in leaks(sets)}
    pairs: list[Twins] = []
    for one, other in combinations(sets, 2):
        for i, j, bits in _near(hashes[one], hashes[other]):
            a, b = sets[one].samples[i], sets[other].samples[j]
            if tuple(sorted((a.key, b.key))) not in same:
                classes = sets[one].classes[a.label], sets[other].classes[b.label]
                pairs.append(Twins((one, other), (a.key, b.key), classes, bits))
    return sorted(pairs, key=lambda twins: (twins.bits, twins.keys))


def _hashes(samples: Sequence[Sample], check: Callable[[], None]) -> NDArray[np.uint64]:
    """Return the perceptual hash of each image ``[N]``; 0 for images of one colour."""
    from imagehash import phash

    def one(sample: Sample) -> int:
        image = decode(sample.path, 1, sample.box)
        low, high = image.getextrema()
        return 0 if low == high else int(str(phash(image)), 16)

    hashes: list[int] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for value in pool.map(one, samples):
            hashes.append(value)
            check()
    return np.asarray(hashes, dtype=np.uint64)


def _near(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Iterable[tuple[int, int, int]]:
    """Yield the indices of hashes that differ in few bits, and the number of those bits."""
    rows = max(1, _BLOCK // max(len(second), 1))
    for start in range(0, len(first), rows):
        block = first[start : start + rows, None]
        bits = np.bitwise_count(block ^ second[None])  # [rows, N]
        bits[(block == 0) | (second[None] == 0)] = 64
        for i, j in zip(*np.nonzero(bits <= NEAR_BITS), strict=True):
            yield start + int(i), int(j), int(bits[i, j])
