"""The same image on both sides of a split: what looks like skill is then memory."""

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

NEAR_BITS = 4
"""Two images whose perceptual hashes differ in so many bits of 64 or fewer count as near
duplicates: rescaled, recompressed, slightly recoloured."""

_THREADS = 4
_BLOCK = 1 << 22  # comparisons at a time

Sets = Mapping[str, ImageSet]


@dataclass(frozen=True)
class Twins:
    """Two images that are the same, or nearly.

    Attributes:
        parts: The image sets that they are in.
        keys: What they are called.
        classes: Their classes.
        bits: In how many bits of 64 their perceptual hashes differ; None for the same content.
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

    Only files of equal size can be equal, so few are read. Two boxes of one file are two images.
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
    seen: dict[object, dict[str, list[tuple[str, str]]]] = {}
    for part, images in sets.items():
        for sample in images.samples:
            mine = seen.setdefault(content(sample), {})
            mine.setdefault(part, []).append((sample.key, images.classes[sample.label]))
    return [
        Twins((a, b), (one[0], other[0]), (one[1], other[1]))
        for where in seen.values()
        for a, b in combinations(where, 2)
        for one, other in product(where[a], where[b])
    ]


def require_apart(sets: Sets, where: str, *, strict: bool) -> list[str]:
    """Return a notice if an image is on both sides.

    Raises:
        DataError: It is, and ``strict`` asks for an error.
    """
    shared = leaks(sets)
    if not shared:
        return []
    what = f"{len(shared)} images are in two splits, by content:"
    hint = "what is measured on them is memory, not skill"
    if strict:
        raise DataError(what + listed([str(twins) for twins in shared]), where=where, hint=hint)
    few = listed([str(twins) for twins in shared[:3]])
    return [f"{what}{few}\n  {hint}; 'siamkit data check' lists them"]


def near_duplicates(sets: Sets, check: Callable[[], None] = lambda: None) -> list[Twins]:
    """Return images of two of the sets that look the same, by perceptual hash.

    The hash is ``imagehash``'s pHash: 64 bits of the low frequencies of a small grey version.
    Images with no structure (one colour) have no hash worth comparing and are left out. Those with
    the same content are not repeated here: see :func:`leaks`.

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
    """Return the perceptual hash of each image ``[N]``; 0 for those without structure."""
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
    """Yield the indices of hashes that differ in few bits, and in how many."""
    rows = max(1, _BLOCK // max(len(second), 1))
    for start in range(0, len(first), rows):
        block = first[start : start + rows, None]
        bits = np.bitwise_count(block ^ second[None])  # [rows, N]
        bits[(block == 0) | (second[None] == 0)] = 64
        for i, j in zip(*np.nonzero(bits <= NEAR_BITS), strict=True):
            yield start + int(i), int(j), int(bits[i, j])
