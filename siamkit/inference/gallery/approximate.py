"""Approximate search: a faiss inverted file, tuned to a measured recall.

K-means divides the gallery into cells, and a query searches the cells that are nearest to it. When
an index is built, the number of cells to search is increased until a sample of queries reaches the
required recall.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.errors import CheckpointError
from siamkit.inference.gallery.kinds import faiss_package
from siamkit.portable.cosine import cosine
from siamkit.portable.nearest import nearest, not_a_number

RECALL = 0.99
"""The recall@10 that a new index must reach on a sample of queries."""

_SAMPLE = 256  # the most gallery rows that are queries when recall is measured
_ROWS_AT_ONCE = 65_536
_GATHERED = 1 << 22  # numbers of candidates in memory: 16 MB
_POINTS_PER_CELL = 64  # for k-means, which needs at least 39
_ROUNDS = 8  # of k-means
_SEED = 0

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Search = Callable[[Floats, int], Ints]
"""A function that returns indices ``[Q, k]`` for queries ``[Q, E]`` and k; -1 for missing ones."""


def cells(count: int) -> int:
    """Return the number of cells for a gallery of N = ``count`` images: 4 sqrt(N).

    This number balances the time for choosing cells and for searching them (the faiss guidelines).
    It is smaller if there are too few images for k-means.
    """
    return max(1, min(int(4 * math.sqrt(count)), count // _POINTS_PER_CELL))


def build(embeddings: Floats, path: Path) -> tuple[int, float]:
    """Build an approximate index of the embeddings ``[N, E]``, and write it to ``path``.

    Returns:
        The number of cells to search per query, and the recall@10 that it reaches on a sample.
    """
    faiss = faiss_package()
    count, dim = embeddings.shape
    number = cells(count)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(dim), dim, number, faiss.METRIC_INNER_PRODUCT
    )  # fmt: skip
    index.cp.niter, index.cp.spherical, index.cp.seed = _ROUNDS, True, 1 + _SEED
    rng = np.random.default_rng(_SEED)
    some = rng.choice(count, min(count, number * _POINTS_PER_CELL), replace=False)
    index.train(np.ascontiguousarray(embeddings[np.sort(some)]))
    for start in range(0, count, _ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(embeddings[start : start + _ROWS_AT_ONCE]))
    sample = np.sort(rng.choice(count, min(count, _SAMPLE), replace=False))
    looked, recall = _tune(index, embeddings, sample, number)
    faiss.write_index(index, str(path))
    return looked, recall


def _tune(index: Any, embeddings: Floats, sample: Ints, number: int) -> tuple[int, float]:
    queries = np.ascontiguousarray(embeddings[sample])
    best = nearest(queries, embeddings, 11)[1]
    looked = 4
    while True:
        looked = min(2 * looked, number)
        index.nprobe = looked
        near = index.search(queries, best.shape[1])[1]
        reached = overlap(_others(near, sample), _others(best, sample))
        if reached >= RECALL or looked == number:
            return looked, reached


def _others(indices: Ints, own: Ints) -> Ints:
    """Return the results of each query without the query itself, so ten of eleven.

    If a query is not among its own results (because duplicates came first), its last result is left
    out instead.
    """
    mine = indices == own[:, None]
    mine[:, -1] |= ~mine.any(axis=1)
    others: Ints = indices[~mine].reshape(len(indices), -1)
    return others


def overlap(found: Ints, best: Ints) -> float:
    """Return the share of the indices ``best`` that are also in ``found``, both ``[Q, k]``.

    Only indices of the same query are compared. The share is 1 if there are no indices.
    """
    if not best.size:
        return 1.0
    return float((best[:, :, None] == found[:, None, :]).any(axis=2).mean())


def opened(path: Path, looked: int) -> Search:
    """Return the search function of an index that :func:`build` wrote.

    Args:
        path: The file.
        looked: The number of cells to search per query.

    Raises:
        ConfigError: faiss is missing.
        CheckpointError: The file is not a faiss index.
    """
    faiss = faiss_package()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        index.nprobe = looked
    except (RuntimeError, AttributeError):
        raise CheckpointError("the file is damaged", where=str(path)) from None

    def search(queries: Floats, k: int) -> Ints:
        indices: Ints = index.search(np.ascontiguousarray(queries), k)[1]
        return indices

    return search


def rescored(queries: Floats, gallery: Floats, indices: Ints) -> tuple[Floats, Ints]:
    """Return the scores ``[Q, k]`` and indices ``[Q, k]`` of candidates, sorted by score.

    Scores and order are those of exact search, because scores are computed again. A missing
    candidate has the score -inf and the index -1.

    Args:
        queries: The unit vectors ``[Q, E]`` of the queries.
        gallery: The unit vectors ``[N, E]`` of the gallery.
        indices: The indices ``[Q, k]`` of the candidates in the gallery; -1 for missing ones.

    Raises:
        NonFiniteError: A score is NaN.
    """
    scores = np.empty(indices.shape, np.float32)
    size = max(1, _GATHERED // max(1, indices.shape[1] * gallery.shape[1]))
    for start in range(0, len(queries), size):
        some = slice(start, start + size)
        vectors = np.asarray(gallery[indices[some]])  # [q, k, E]; the last row for a missing one
        scores[some] = (vectors @ queries[some, :, None])[:, :, 0]
    if np.isnan(scores).any():
        raise not_a_number("the candidates")
    return ordered(np.where(indices < 0, np.float32(-np.inf), cosine(scores)), indices)


def ordered(scores: Floats, indices: Ints) -> tuple[Floats, Ints]:
    """Return scores and indices, both ``[Q, k]``, sorted in each row.

    Larger scores come first, and lower indices first among equal scores.
    """
    order = np.lexsort((indices, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)
