"""The pairs of images to verify, listed or made from labels, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.data.images import Tuples
from siamkit.portable.cosine import cosine, directions, pair_cosines

MOST = 500_000
_FOLDS = 10
_BLOCK_BYTES = 4 << 20  # of products per block, which fit in the CPU cache
_DENSE = 64
"""If pairs need at least one in this many of all products, computing all of them is faster."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of images.

    Attributes:
        first: ``[P]``, the index of the first image.
        second: ``[P]``, the index of the second image.
        same: ``[P]``, whether both images are of one class.
        all: Whether these are all pairs, not a sample.
    """

    first: Ints
    second: Ints
    same: NDArray[np.bool_]
    all: bool


def known_pairs(tuples: Tuples) -> ImagePairs:
    """Return the pairs of the data: the listed pairs, or the pairs within listed triplets."""
    listed = tuples.pairs()
    first, second = (np.asarray(side, np.int64) for side in listed.columns)
    return ImagePairs(first, second, np.asarray(listed.same, bool), all=True)


def pairs_of(labels: Ints, *, most: int = MOST, seed: int = 0) -> ImagePairs:
    """Return all pairs of images; if there are too many, a sample with at most half same pairs.

    Args:
        labels: ``[N]`` int64.
        most: The largest number of pairs.
        seed: The seed of the sample.
    """
    count = len(labels)
    if count * (count - 1) // 2 <= most:
        first, second = (side.astype(np.int64) for side in np.triu_indices(count, 1))
        return ImagePairs(first, second, labels[first] == labels[second], all=True)
    rng = np.random.default_rng(seed)
    images = _Sorted.by(labels)
    same = _same(images, most // 2, rng)
    different = _different(images, most - len(same), rng)
    first, second = np.concatenate([same, different]).T
    return ImagePairs(first, second, np.arange(len(first)) < len(same), all=False)


@dataclass(frozen=True)
class _Sorted:
    """The images sorted by class.

    Attributes:
        order: ``[N]``, the indices of the images, sorted by class. A place is a position in it.
        starts: ``[C]``, the first place of each class.
        ends: ``[C]``, the place after the last one of each class.
    """

    order: Ints
    starts: Ints
    ends: Ints

    @classmethod
    def by(cls, labels: Ints) -> _Sorted:
        _, sizes = np.unique(labels, return_counts=True)
        ends = sizes.cumsum()
        return cls(labels.argsort(kind="stable"), ends - sizes, ends)

    def drawn(
        self, places: Ints, partners: Ints, counts: Ints, most: int, rng: np.random.Generator
    ) -> Ints:
        """Return at most ``most`` pairs ``[P, 2]``, each equally likely.

        The pairs are numbered, and only the drawn numbers become pairs, so memory does not grow
        with the number of pairs.

        Args:
            places: ``[M]``, the places of images. Each makes pairs with consecutive other places.
            partners: ``[M]``, the first of these other places.
            counts: ``[M]``, the number of these other places.
            most: The largest number of pairs.
            rng: Draws the pairs.
        """
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        if total <= most:
            numbers = np.arange(total)
        else:
            numbers = np.sort(rng.choice(total, most, replace=False, shuffle=False))
        at = np.searchsorted(ends, numbers, side="right")
        other = partners[at] + numbers - (ends - counts)[at]
        return np.sort(np.stack([self.order[places[at]], self.order[other]], 1), axis=1)


def _same(images: _Sorted, most: int, rng: np.random.Generator) -> Ints:
    """Return same pairs ``[P, 2]``, spread as evenly over the classes as possible."""
    sizes = images.ends - images.starts
    several = sizes > 1
    share = max(1, _share(sizes * (sizes - 1) // 2, most))
    parts = [np.empty((0, 2), np.int64)]
    for start, end in zip(images.starts[several], images.ends[several], strict=True):
        places = np.arange(start, end)
        parts.append(images.drawn(places, places + 1, end - places - 1, share, rng))
    pairs = np.concatenate(parts)
    return pairs[np.sort(rng.permutation(len(pairs))[:most])]


def _share(counts: Ints, most: int) -> int:
    """Return the largest number such that classes with at most so many pairs fit into ``most``."""
    # Each class, the smallest first, takes its pairs or an equal share of what is left.
    left = most
    counts = np.sort(counts[counts > 0])
    for number, count in enumerate(counts.tolist()):
        share = left // (len(counts) - number)
        if count > share:
            return share
        left -= count
    return most


def _different(images: _Sorted, most: int, rng: np.random.Generator) -> Ints:
    """Return pairs ``[P, 2]`` of images of different classes; all of them if there are fewer."""
    places = np.arange(len(images.order))
    # Each image makes a pair with those of the classes after its own.
    after = np.repeat(images.ends, images.ends - images.starts)
    return images.drawn(places, after, len(places) - after, most, rng)


def scores(embeddings: NDArray[Any], pairs: ImagePairs) -> Floats:
    """Return the cosine similarities ``[P]`` of pairs of the embeddings ``[N, E]``."""
    return cosines(embeddings, pairs.first, pairs.second)


def cosines(embeddings: NDArray[Any], first: Ints, second: Ints) -> Floats:
    """Return the cosine similarities ``[P]`` of pairs of embeddings.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        first: ``[P]``, the index of each pair's first embedding.
        second: ``[P]``, the index of each pair's second embedding.
    """
    if len(embeddings) ** 2 > _DENSE * len(first):
        return pair_cosines(embeddings, first, second)
    return cosine(_by_matrix(directions(embeddings), first, second)).astype(np.float64)


def _by_matrix(vectors: Vectors, first: Ints, second: Ints) -> Vectors:
    """Return the products of the pairs, picked from the products of all vectors, block by block."""
    order = first.argsort(kind="stable")
    rows = first[order]
    picked = np.empty(len(first), np.float32)
    size = max(1, _BLOCK_BYTES // (4 * len(vectors)))
    for start in range(0, len(vectors), size):
        ends = np.searchsorted(rows, [start, start + size])
        chosen = order[ends[0] : ends[1]]
        products = vectors[start : start + size] @ vectors.T
        picked[chosen] = products[first[chosen] - start, second[chosen]]
    return picked


def identity_folds(labels: Ints, pairs: ImagePairs, *, folds: int = _FOLDS, seed: int = 0) -> Ints:
    """Return the folds ``[P]`` of the pairs. As in LFW, no identity is in two folds.

    Args:
        labels: ``[N]`` int64.
        pairs: The pairs.
        folds: The largest number of folds. There are fewer if a fold would have fewer than two
            classes.
        seed: The seed by which identities are assigned to folds.

    Returns:
        The number of each pair's fold, from 0; -1 for a pair of identities in two folds, which
        must be left out.
    """
    names, codes = np.unique(labels, return_inverse=True)
    count = max(1, min(folds, len(names) // 2))
    fold = np.empty(len(names), np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % count
    a, b = fold[codes[pairs.first]], fold[codes[pairs.second]]
    return np.where(a == b, a, -1)
