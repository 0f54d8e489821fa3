"""The pairs of images to verify, listed or made from labels, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.data.images import Tuples
from siamkit.evaluation.cosine import cosine, directions

MOST = 500_000
_FOLDS = 10
_BLOCK_BYTES = 4 << 20  # of vectors or products per block, which fits in the CPU cache
_DENSE = 64
"""If at least one in this many products is needed, computing all of them is faster."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def pairs_of(labels: Tensor, *, most: int = MOST, seed: int = 0) -> ImagePairs:
    """Return all pairs of images; if there are too many, a sample that is up to half same pairs.

    Args:
        labels: ``[N]`` int64.
        most: The largest number of pairs.
        seed: The seed of the sample.
    """
    names = labels.cpu().numpy()
    count = len(names)
    if count * (count - 1) // 2 <= most:
        first, second = (side.astype(np.int64) for side in np.triu_indices(count, 1))
        return ImagePairs(first, second, names[first] == names[second], all=True)
    rng = np.random.default_rng(seed)
    same = _same(names, most // 2, rng)
    different = _different(names, most - len(same), rng)
    first, second = np.concatenate([same, different]).T
    return ImagePairs(first, second, np.arange(len(first)) < len(same), all=False)


def _same(names: Ints, most: int, rng: np.random.Generator) -> Ints:
    """Return same pairs ``[P, 2]``, spread as evenly over the classes as possible."""
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    members = [rows for rows in members if len(rows) > 1]
    total = sum(len(rows) * (len(rows) - 1) // 2 for rows in members)
    share = max(1, most // max(len(members), 1)) if total > most else most
    parts = []
    for rows in members:
        a, b = np.triu_indices(len(rows), 1)
        kept = np.sort(rng.permutation(len(a))[:share])
        parts.append(np.stack([rows[a[kept]], rows[b[kept]]], 1))
    pairs = np.concatenate(parts) if parts else np.empty((0, 2), np.int64)
    return pairs[np.sort(rng.permutation(len(pairs))[:most])]


def _different(names: Ints, most: int, rng: np.random.Generator) -> Ints:
    codes: Ints = np.empty(0, np.int64)  # each pair as first * count + second
    count = len(names)
    if len(np.unique(names)) < 2:
        return codes.reshape(0, 2)
    while len(codes) < most:
        a, b = rng.integers(0, count, (2 * most, 2)).T
        a, b = (side[names[a] != names[b]] for side in (np.minimum(a, b), np.maximum(a, b)))
        before = len(codes)
        codes = np.unique(np.concatenate([codes, a * count + b]))
        if len(codes) == before:  # there are no more pairs
            break
    codes = codes[np.sort(rng.permutation(len(codes))[:most])]
    return np.stack([codes // count, codes % count], 1)


def scores(embeddings: Tensor, pairs: ImagePairs) -> Floats:
    """Return the cosine similarities ``[P]`` of pairs of the embeddings ``[N, E]``."""
    return cosines(embeddings, pairs.first, pairs.second)


def cosines(embeddings: Tensor, first: Ints, second: Ints) -> Floats:
    """Return the cosine similarities ``[P]`` of pairs of embeddings.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        first: ``[P]``, the index of each pair's first embedding.
        second: ``[P]``, the index of each pair's second embedding.
    """
    vectors = directions(embeddings)
    one, other = torch.from_numpy(first), torch.from_numpy(second)
    dense = len(vectors) ** 2 <= _DENSE * len(one)
    products = (_by_matrix if dense else _one_by_one)(vectors, one, other)
    return cosine(products).double().numpy()


def _one_by_one(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    size = max(1, _BLOCK_BYTES // (4 * vectors.shape[1]))
    blocks = zip(first.split(size), second.split(size), strict=True)
    return torch.cat([(vectors[a] * vectors[b]).sum(1) for a, b in blocks])


def _by_matrix(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the products of the pairs, picked from all products of one block of rows at a time."""
    order = first.argsort(stable=True)
    rows = first[order].contiguous()
    picked = torch.empty(len(first))
    size = max(1, _BLOCK_BYTES // (4 * len(vectors)))
    for start in range(0, len(vectors), size):
        ends = torch.searchsorted(rows, torch.tensor([start, start + size]))
        chosen = order[ends[0] : ends[1]]
        products = vectors[start : start + size] @ vectors.T
        picked[chosen] = products[first[chosen] - start, second[chosen]]
    return picked


def identity_folds(
    labels: Tensor, pairs: ImagePairs, *, folds: int = _FOLDS, seed: int = 0
) -> Ints:
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
    names, codes = np.unique(labels.cpu().numpy(), return_inverse=True)
    count = max(1, min(folds, len(names) // 2))
    fold = np.empty(len(names), np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % count
    a, b = fold[codes[pairs.first]], fold[codes[pairs.second]]
    return np.where(a == b, a, -1)
