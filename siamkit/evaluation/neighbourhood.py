"""The neighbourhood of each image: its nearest images and its hardest pairs, by exact search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.verified import Verified
from siamkit.portable.cosine import STEPS, cosine, directions
from siamkit.portable.nearest import ranked

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

ScoredPair = tuple[int, int, float]
"""The indices of two images, and their similarity."""

_BLOCK_BYTES = 32 << 20  # of similarities per block


@dataclass(frozen=True)
class Neighbourhood:
    """The neighbours of each of N images, by cosine similarity.

    Attributes:
        nearest: ``[N, K]``, the indices of other images in the gallery, the most similar first.
        scores: ``[N, K]``, the similarities of the images in ``nearest``.
        nearest_other: ``[N]``, the first image of another class among all that are equally near as
            the nearest one, in the gallery; -1 if there is none.
        closest_other: ``[N]``, the index of the most similar image of another class; -1 if there is
            none.
        closest_other_score: ``[N]``, the similarity of ``closest_other``.
        farthest_same: ``[N]``, the index of the least similar image of the same class; -1 if there
            is none.
        farthest_same_score: ``[N]``, the similarity of ``farthest_same``.
        right: ``[N]``, 1 if the nearest image is of the same class, else 0. If several images are
            equally near, the share of them that is of the same class. The mean of ``right`` over
            the queries that count (``findable``) is recall@1.
        query: ``[N]``, whether the image is a query.
        findable: ``[N]``, whether the image is a query with another image of its class in the
            gallery.
    """

    nearest: Ints
    scores: Floats
    nearest_other: Ints
    closest_other: Ints
    closest_other_score: Floats
    farthest_same: Ints
    farthest_same_score: Floats
    right: Floats
    query: Bools
    findable: Bools


def neighbourhood(
    embeddings: NDArray[Any],
    labels: Ints,
    k: int,
    *,
    query: Bools | None = None,
    gallery: Bools | None = None,
) -> Neighbourhood:
    """Return the neighbours of each image among all others.

    Args:
        embeddings: ``[N, E]`` with N >= 2, normalised or not.
        labels: ``[N]`` int64.
        k: The number of neighbours per image; fewer if there are fewer images.
        query: ``[N]`` bool, the queries; None: all images.
        gallery: ``[N]`` bool, the images to search; None: all images. Hard pairs come from all
            images, like the pairs of verification.
    """
    vectors = directions(embeddings)
    count = len(labels)
    everyone = np.ones(count, bool)
    query, gallery = (everyone if mask is None else mask for mask in (query, gallery))
    k = max(min(k, int(gallery.sum()) - 1), 1)
    size = max(1, _BLOCK_BYTES // (4 * count))
    parts: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        here = np.arange(len(rows))
        similar = cosine(vectors[rows] @ vectors.T)  # [B, N]
        same = labels[rows, None] == labels
        others = np.where(same, -np.inf, similar)
        other = others.argmax(axis=1)
        same[here, rows] = False
        fellows = np.where(same, similar, np.inf)
        far = fellows.argmin(axis=1)
        similar[here, rows] = -np.inf
        similar[:, ~gallery] = -np.inf
        top, nearest = ranked(similar, k, where="similarities")
        scores = top / np.float32(STEPS)
        first = similar == scores[:, :1]  # true for several images if they are equally near
        foreign = first & (labels[rows, None] != labels)
        parts.append(
            (
                nearest,
                scores,
                np.where(foreign.any(axis=1), foreign.argmax(axis=1), -1),
                other,
                others[here, other],
                far,
                fellows[here, far],
                query[rows] & (same & gallery).any(axis=1),
                (first & same).sum(axis=1) / first.sum(axis=1),
            )
        )
    nearest, scores, nearest_other, other, other_score, far, same_score, findable, right = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Neighbourhood(
        nearest,
        scores,
        nearest_other,
        np.where(np.isfinite(other_score), other, -1),
        other_score,
        np.where(np.isfinite(same_score), far, -1),
        same_score,
        right.astype(np.float32),
        query,
        findable,
    )


def hardest_known(verified: Verified, most: int) -> tuple[list[ScoredPair], list[ScoredPair]]:
    """Return the hardest listed pairs: different pairs of high score, and same pairs of low score.

    Args:
        verified: The scored pairs.
        most: The largest number of pairs of each kind. The hardest pair comes first.
    """
    pairs, values = verified.pairs, verified.scores
    order = np.argsort(values, kind="stable")
    different, same = order[~pairs.same[order]][::-1][:most], order[pairs.same[order]][:most]
    accepts, rejects = (
        [(int(pairs.first[i]), int(pairs.second[i]), float(values[i])) for i in chosen]
        for chosen in (different, same)
    )
    return accepts, rejects


def hardest(
    partner: Ints, scores: Floats, labels: Ints, most: int, *, highest: bool
) -> list[ScoredPair]:
    """Return the hardest pairs, at most one for each pair of classes.

    Args:
        partner: ``[N]``, the other image of each image's hardest pair; -1 for none.
        scores: ``[N]``, the scores of these pairs.
        labels: ``[N]``, the class of each image.
        most: The largest number of pairs.
        highest: Whether a high score is hard, as for images of different classes. Otherwise, a low
            score is hard.
    """
    order = np.argsort(-scores if highest else scores, kind="stable")
    pairs: list[ScoredPair] = []
    seen: set[tuple[int, int]] = set()
    for index in order.tolist():
        other = int(partner[index])
        if other < 0:
            continue
        a, b = sorted((int(labels[index]), int(labels[other])))
        if (a, b) in seen:
            continue
        seen.add((a, b))
        pairs.append((min(index, other), max(index, other), float(scores[index])))
        if len(pairs) == most:
            break
    return pairs


def gallery_queries(
    near: Neighbourhood, right: int, wrong: int, seed: int
) -> tuple[list[int], list[int]]:
    """Return a random sample of queries whose nearest image is of their class, and of others.

    Args:
        near: The neighbours.
        right: The largest number of queries whose nearest image is of their class.
        wrong: The largest number of queries whose nearest image, or one of several equally near
            images, is of another class.
        seed: The seed of the sample.

    Returns:
        The indices of the two kinds of queries, each in ascending order.
    """
    rng = np.random.default_rng(seed)
    kinds = (near.findable & (near.right == 1), right), (near.findable & (near.right < 1), wrong)
    drawn = (rng.permutation(np.flatnonzero(of_kind))[:most] for of_kind, most in kinds)
    first, second = (sorted(int(i) for i in chosen) for chosen in drawn)
    return first, second
