"""Pairs of images to verify, made of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MOST = 500_000
_FOLDS = 10
_BLOCK = 1 << 16
_DENSE = 50  # products that take the time of one gathered pair

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images by index.

    Attributes:
        first: ``[P]``
        second: ``[P]``, another image.
        same: ``[P]``, whether both are of one class.
        all: Whether these are all the pairs there are.
    """

    first: Ints
    second: Ints
    same: NDArray[np.bool_]
    all: bool


def pairs_of(labels: Tensor, *, most: int = MOST, seed: int = 0) -> Pairs:
    """Return all pairs of images, or all same pairs there is room for and a draw of different ones.

    Args:
        labels: ``[N]`` int64.
        most: The largest number of pairs.
        seed: Of the draw.
    """
    names = labels.cpu().numpy()
    count = len(names)
    if count * (count - 1) // 2 <= most:
        first, second = (side.astype(np.int64) for side in np.triu_indices(count, 1))
        return Pairs(first, second, names[first] == names[second], all=True)
    rng = np.random.default_rng(seed)
    same = _same(names, most // 2, rng)
    different = _different(names, most - len(same), rng)
    first, second = np.concatenate([same, different]).T
    return Pairs(first, second, np.arange(len(first)) < len(same), all=False)


def _same(names: Ints, most: int, rng: np.random.Generator) -> Ints:
    """Return same pairs ``[P, 2]``: as even a share of each class as there is."""
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    members = [rows for rows in members if len(rows) > 1]
    total = sum(len(rows) * (len(rows) - 1) // 2 for rows in members)
    share = max(1, most // max(len(members), 1)) if total > most else most
    found = []
    for rows in members:
        a, b = np.triu_indices(len(rows), 1)
        kept = np.sort(rng.permutation(len(a))[:share])
        found.append(np.stack([rows[a[kept]], rows[b[kept]]], 1))
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return pairs[np.sort(rng.permutation(len(pairs))[:most])]


def _different(names: Ints, most: int, rng: np.random.Generator) -> Ints:
    found: Ints = np.empty((0, 2), np.int64)
    count = len(names)
    if len(np.unique(names)) < 2:
        return found
    while len(found) < most:
        drawn = np.sort(rng.integers(0, count, (2 * most, 2)), 1)
        drawn = drawn[names[drawn[:, 0]] != names[drawn[:, 1]]]
        before = len(found)
        found = np.unique(np.concatenate([found, drawn]), axis=0)
        if len(found) == before:  # these are all there are
            break
    return found[np.sort(rng.permutation(len(found))[:most])]


def scores(embeddings: Tensor, pairs: Pairs) -> Floats:
    """Return the cosine similarity of each pair ``[P]``.

    Args:
        embeddings: ``[N, E]``; need not be normalised.
        pairs: The pairs.
    """
    vectors = F.normalize(embeddings.detach().float().cpu(), dim=-1)
    if len(vectors) ** 2 <= _DENSE * len(pairs.first):
        return _dense_scores(vectors, pairs)
    first, second = torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    blocks = zip(first.split(_BLOCK), second.split(_BLOCK), strict=True)
    parts = [(vectors[a] * vectors[b]).sum(1) for a, b in blocks]
    found: Floats = torch.cat(parts).double().numpy()
    return found


def _dense_scores(vectors: Tensor, pairs: Pairs) -> Floats:
    """Return the scores by way of all similarities, block by block.

    Where many pairs share few images this is many times faster than to gather both images of each.
    """
    found = np.empty(len(pairs.first))
    order = np.argsort(pairs.first, kind="stable")
    first, second = pairs.first[order], pairs.second[order]
    rows = max(1, _BLOCK * 128 // max(len(vectors), 1))
    for start in range(0, len(vectors), rows):
        low, high = np.searchsorted(first, [start, start + rows])
        similar = (vectors[start : start + rows] @ vectors.T).numpy()
        found[order[low:high]] = similar[first[low:high] - start, second[low:high]]
    return found


def identity_folds(labels: Tensor, pairs: Pairs, *, folds: int = _FOLDS, seed: int = 0) -> Ints:
    """Return the fold of each pair ``[P]``, as in LFW: no identity is in two of them.

    Args:
        labels: ``[N]`` int64.
        pairs: The pairs.
        folds: How many; fewer where there are fewer than two classes for each.
        seed: Of the draw of identities.

    Returns:
        -1 for a pair of identities of two folds, which is to be left out.
    """
    names, codes = np.unique(labels.cpu().numpy(), return_inverse=True)
    count = max(1, min(folds, len(names) // 2))
    fold = np.empty(len(names), np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % count
    a, b = fold[codes[pairs.first]], fold[codes[pairs.second]]
    return np.where(a == b, a, -1)
