"""Class structure: pairs of classes that look like one class, and classes that look like two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.class_scores import ClassScores, score_blocks
from siamkit.portable.cosine import cosine, directions

Ints = NDArray[np.int64]

_TOGETHER, _EACH = 0.4, 1 / 3
_SMALLEST = 2
_APART, _WHOLE = 0.8, 0.5
_MOST = 2_000
"""The most images of a class that are divided in two; of a larger class, the first ones."""


@dataclass(frozen=True)
class Alike:
    """Two classes that look like one.

    Attributes:
        first: One class.
        second: The other class.
        share: The share of the images of both that look at least as much like the other class.
    """

    first: int
    second: int
    share: float


@dataclass(frozen=True)
class Divided:
    """A class that looks like two.

    Attributes:
        label: The class.
        parts: The indices of the images of each part, the larger part first.
        share: The share of the images that look more like some other class than like the other
            part, in the part where it is lower.
    """

    label: int
    parts: tuple[tuple[int, ...], tuple[int, ...]]
    share: float


def alike(scores: ClassScores, labels: Ints, num_classes: int) -> list[Alike]:
    """Return the pairs of classes that look like one, the most alike first.

    If a class is divided at random under two names, an image looks as much like the other name as
    like its own about half of the time. A pair counts if this holds for 40 % of its images, and for
    a third of the images of each class.

    Args:
        scores: The class scores of the images.
        labels: ``[N]``, the class of each image.
        num_classes: The number of classes.
    """
    sizes = np.bincount(labels, minlength=num_classes)
    image, place = np.nonzero(scores.beats)
    codes, counts = np.unique(
        labels[image] * num_classes + scores.rivals[image, place], return_counts=True
    )
    found = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    result = []
    for code, count in found.items():
        first, second = divmod(code, num_classes)
        back = found.get(second * num_classes + first, 0)
        share = (count + back) / int(sizes[first] + sizes[second])
        each = min(count / int(sizes[first]), back / int(sizes[second]))
        if first < second and share >= _TOGETHER and each >= _EACH:
            result.append(Alike(first, second, share))
    return sorted(result, key=lambda pair: (-pair.share, pair.first, pair.second))


def divided(
    embeddings: NDArray[Any], labels: Ints, scores: ClassScores, num_classes: int
) -> list[Divided]:
    """Return the classes that look like two, the most divided first.

    Average linkage divides each class in two. The class counts if other classes are nearer to most
    images of each part than the other part is, and if most images of each part are nearer to their
    own part than to any other class.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]``, the class of each image.
        scores: The class scores of the images.
        num_classes: The number of classes.
    """
    vectors = directions(embeddings)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(1, num_classes))
    result = []
    for label, members in enumerate(np.split(order, starts)):
        images = members[:_MOST]
        if len(images) < 2 * _SMALLEST:
            continue
        part = _two_parts(vectors[images])
        if min(np.bincount(part)) < _SMALLEST:
            continue
        mean = np.concatenate([s for _, s in score_blocks(vectors[images], part, 2)])  # [n, 2]
        here, other = np.arange(len(images)), scores.other[images]
        leaves, stays = other >= mean[here, 1 - part], mean[here, part] > other
        sides = (part.astype(bool), ~part.astype(bool))
        share = min(float(leaves[side].mean()) for side in sides)
        if share >= _APART and all(stays[side].mean() >= _WHOLE for side in sides):
            parts = [tuple(int(i) for i in images[side]) for side in sides]
            parts.sort(key=lambda some: (-len(some), some))
            result.append(Divided(label, (parts[0], parts[1]), share))
    return sorted(result, key=lambda found: (-found.share, found.label))


def _two_parts(vectors: NDArray[np.float32]) -> Ints:
    """Return the part, 0 or 1, of each vector, by average linkage of cosine distances."""
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    distances = np.maximum(1 - cosine(vectors @ vectors.T), 0)
    model = AgglomerativeClustering(2, metric="precomputed", linkage="average")
    parts: Ints = model.fit_predict(distances).astype(np.int64)
    return parts
