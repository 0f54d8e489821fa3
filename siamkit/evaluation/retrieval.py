"""Retrieval metrics, by exact search in bounded memory. Ties count by their expected value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.evaluation.ties import expected
from siamkit.portable.cosine import directions, steps
from siamkit.portable.nearest import largest

KS = (1, 5, 10)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK_BYTES = 128 << 20  # of similarities and ranks per block; smaller blocks are slower
_RANK_BYTES = 360  # that finding and counting a rank takes, at most


@dataclass(frozen=True)
class Retrieval:
    """The retrieval metrics.

    Attributes:
        recall: For each k, the share of queries with an image of their class among their k nearest
            images.
        map_at_r: The mean average precision at R. R is the number of images of the query's class in
            the gallery, without the query itself.
        r_precision: The share of images of the query's class among the query's R nearest images,
            averaged over queries.
        queries: The number of queries with another image of their class in the gallery.
        left_out: The number of all other queries, which do not count.
        gallery: The number of images in the gallery.
        classes: The number of classes among the queries that count.
    """

    recall: dict[int, float]
    map_at_r: float
    r_precision: float
    queries: int
    left_out: int
    gallery: int
    classes: int

    def to_json(self) -> dict[str, Any]:
        """Return the metrics by name (``recall@1``, ``map@r``, ...) and the counts."""
        return {
            **{f"recall@{k}": value for k, value in self.recall.items()},
            "map@r": self.map_at_r,
            "r_precision": self.r_precision,
            "queries": self.queries,
            "left_out": self.left_out,
            "gallery": self.gallery,
            "classes": self.classes,
        }


def retrieval_of(
    embeddings: NDArray[Any], images: ImageSet, *, ks: Sequence[int] = KS
) -> Retrieval:
    """Return the :func:`retrieval` metrics of labelled images, with the data's query and gallery.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order.
        ks: The values of k for recall@k.

    Raises:
        DataError: No query has another image of its class in the gallery.
    """
    query, gallery = roles_of(images)
    labels = np.array(images.labels, np.int64)
    return retrieval(embeddings, labels, ks=ks, query=query, gallery=gallery)


def chance_of(images: ImageSet) -> dict[str, float]:
    """Return the expected metrics of a random ranking of images; see :func:`random_baseline`."""
    query, gallery = roles_of(images)
    return random_baseline(np.array(images.labels, np.int64), query=query, gallery=gallery)


def roles_of(images: ImageSet) -> tuple[Bools | None, Bools | None]:
    """Return the data's query and gallery masks, each ``[N]`` bool, or None for all images."""
    query, gallery = (
        None if role is None else np.array(role, bool) for role in (images.query, images.gallery)
    )
    return query, gallery


def retrieval(
    embeddings: NDArray[Any],
    labels: Ints,
    *,
    ks: Sequence[int] = KS,
    query: Bools | None = None,
    gallery: Bools | None = None,
) -> Retrieval:
    """Search the gallery for each query by cosine similarity, and return the retrieval metrics.

    MAP@R follows Musgrave et al., "A Metric Learning Reality Check" (ECCV 2020). The search is
    exact and computes similarities in blocks of up to 128 MB. For images that are equally near,
    each order counts as equally likely (:mod:`siamkit.evaluation.ties`).

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]`` int64.
        ks: The values of k for recall@k.
        query: ``[N]`` bool, the queries; None: all images.
        gallery: ``[N]`` bool, the images to search; None: all images. A query never matches itself.

    Raises:
        DataError: No query has another image of its class in the gallery.
    """
    everyone = np.ones(len(labels), bool)
    query, gallery = (everyone if mask is None else mask for mask in (query, gallery))
    found = _searched(directions(embeddings), labels, query, gallery, ks)
    chosen = found.queries
    means = (found.metrics.sum(axis=1) / len(chosen)).tolist()
    return Retrieval(
        dict(zip(ks, means, strict=False)),
        means[-2],
        means[-1],
        len(chosen),
        int(query.sum()) - len(chosen),
        int(gallery.sum()),
        len(np.unique(labels[chosen])),
    )


@dataclass(frozen=True)
class ClassRetrieval:
    """The retrieval metrics of the queries of one class.

    Attributes:
        queries: The number of queries that count.
        totals: The sum over the queries of ``recall@1`` and ``map@r``, by the metric's name.
    """

    queries: int
    totals: dict[str, float]


def retrieval_by_class(embeddings: NDArray[Any], images: ImageSet) -> dict[str, ClassRetrieval]:
    """Return what the classes add to the :func:`retrieval` metrics, by the name of the class.

    Classes without a query that counts are left out.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order.

    Raises:
        DataError: No query has another image of its class in the gallery.
    """
    everyone = np.ones(len(images), bool)
    query, gallery = (everyone if role is None else role for role in roles_of(images))
    labels = np.array(images.labels, np.int64)
    found = _searched(directions(embeddings), labels, query, gallery, (1,))
    counts = np.bincount(labels[found.queries], minlength=len(images.classes)).tolist()
    sums = [
        np.bincount(labels[found.queries], weights=values, minlength=len(counts)).tolist()
        for values in found.metrics[:2]
    ]
    return {
        name: ClassRetrieval(count, {"recall@1": recall, "map@r": average})
        for name, count, recall, average in zip(images.classes, counts, *sums, strict=True)
        if count
    }


@dataclass(frozen=True)
class _Searched:
    """The metrics of queries.

    Attributes:
        queries: ``[Q]``, the indices of the queries that count.
        metrics: ``[len(ks) + 2, Q]``: recall@k for each k, average precision at R, R-precision.
    """

    queries: Ints
    metrics: NDArray[np.float64]


def _searched(
    vectors: NDArray[np.float32], labels: Ints, query: Bools, gallery: Bools, ks: Sequence[int]
) -> _Searched:
    """Search the gallery for each query; see :func:`retrieval`.

    Args:
        vectors: ``[N, E]``, of length 1.
        labels: ``[N]`` int64.
        query: ``[N]`` bool, the queries.
        gallery: ``[N]`` bool, the images to search.
        ks: The values of k for recall@k.
    """
    targets = np.flatnonzero(gallery)  # [M]
    place = np.full(len(labels), -1)
    place[targets] = np.arange(len(targets))
    findable = _findable(labels, query, gallery)  # [N]
    chosen = np.flatnonzero(query & (findable > 0))
    if not len(chosen):
        raise DataError(
            "no query has another image of its class in the gallery",
            hint="retrieval needs at least two images of a class",
        )
    # Sorted by R, so that few blocks need a long ranking.
    chosen = chosen[findable[chosen].argsort(kind="stable")]
    searched = (vectors if len(targets) == len(labels) else vectors[targets]).T  # [E, M]
    depths = np.maximum(findable[chosen], max(ks))
    blocks = [chosen[part] for part in _blocks(4 * len(targets) + _RANK_BYTES * depths)]
    # One buffer for all blocks: allocating memory takes half as long as the product itself.
    buffer = np.empty((max(map(len, blocks)), len(targets)), np.float32)
    metrics = []
    for block in blocks:
        similarity = np.matmul(vectors[block], searched, out=buffer[: len(block)])
        own = place[block]
        rows = np.flatnonzero(own >= 0)
        similarity[rows, own[rows]] = -np.inf
        metrics.append(_block(similarity, labels[targets], labels[block], findable[block], ks))
    return _Searched(chosen, np.concatenate(metrics, axis=1))


def _blocks(costs: Ints) -> Iterator[slice]:
    """Yield parts of queries that fit into a block.

    Args:
        costs: ``[Q]``, the bytes that each query takes, ascending. In a block, every query takes
            as much as the block's last one.
    """
    start = 0
    while start < len(costs):
        needed = costs[start:] * np.arange(1, len(costs) - start + 1)
        end = start + max(1, int((needed <= _BLOCK_BYTES).sum()))
        yield slice(start, end)
        start = end


def _block(
    similarity: NDArray[np.float32], found: Ints, asked: Ints, r: Ints, ks: Sequence[int]
) -> NDArray[np.float64]:
    """Return the metrics of the queries of a block, ``[len(ks) + 2, B]``.

    Args:
        similarity: ``[B, M]``, -inf for the query itself.
        found: ``[M]``, the labels of the gallery.
        asked: ``[B]``, the labels of the queries.
        r: ``[B]``, the number of images of each query's class.
        ks: The values of k for recall@k.
    """
    # One more rank than needed shows whether the last needed rank is tied.
    depth = min(max(int(r.max()), *ks) + 1, similarity.shape[1])
    columns = largest(similarity, depth, where="similarities")
    top = steps(np.take_along_axis(similarity, columns, 1))
    order = np.argsort(-top, axis=1)
    top, columns = np.take_along_axis(top, order, 1), np.take_along_axis(columns, order, 1)

    def whole(row: int) -> tuple[int, int]:
        tied = steps(similarity[row]) == top[row, -1]
        return int(tied.sum()), int((tied & (found == asked[row])).sum())

    return expected(top, found[columns] == asked[:, None], r, ks, whole)


def _findable(labels: Ints, query: Bools, gallery: Bools) -> Ints:
    """Return the number of gallery images of each image's class, without the image itself."""
    names, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes[gallery], minlength=len(names))
    findable: Ints = counts[codes] - (query & gallery)
    return findable


def random_baseline(
    labels: Ints,
    *,
    ks: Sequence[int] = KS,
    query: Bools | None = None,
    gallery: Bools | None = None,
) -> dict[str, float]:
    """Return the expected metrics of a random ranking: ``recall@k``, ``map@r``, ``r_precision``.

    The arguments and errors are those of :func:`retrieval`.
    """
    everyone = np.ones(len(labels), bool)
    query, gallery = (everyone if mask is None else mask for mask in (query, gallery))
    findable = _findable(labels, query, gallery)
    chosen = query & (findable > 0)
    if not chosen.any():
        raise DataError("no query has another image of its class in the gallery")
    others = int(gallery.sum()) - (query & gallery)[chosen]
    pairs, counts = np.unique(np.stack([findable[chosen], others]), axis=1, return_counts=True)
    totals: dict[str, float] = {}
    for (r, m), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        for name, value in _by_chance(r, m, ks).items():
            totals[name] = totals.get(name, 0.0) + value * count
    return {name: value / int(counts.sum()) for name, value in totals.items()}


def _by_chance(r: int, m: int, ks: Sequence[int]) -> dict[str, float]:
    """Return the expected metrics of ``m`` images in random order, ``r`` of the query's class."""
    hits = np.arange(min(max(r, *ks) + 1, m)) < r
    zeros = np.zeros((1, len(hits)), np.float32)
    found = expected(zeros, hits[None], np.array([r]), ks, lambda row: (m, r))
    names = (*(f"recall@{k}" for k in ks), "map@r", "r_precision")
    return dict(zip(names, found.ravel().tolist(), strict=True))
