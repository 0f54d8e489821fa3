"""Class scores: how much each image looks like its own class, and like other classes.

The score of a class for an image is the mean similarity of the image to its two nearest images of
the class, other than itself. Two are enough to weather one wrong label, and few enough for classes
that show a thing from many sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.portable.cosine import cosine, directions

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_BLOCK_BYTES = 32 << 20  # of similarities per block
_RIVALS = 5


@dataclass(frozen=True)
class ClassScores:
    """The scores of each of N images, for C classes.

    Attributes:
        own: ``[N]``, the score of the image's own class; NaN for the only image of a class.
        other: ``[N]``, the highest score of another class.
        suggested: ``[N]``, the class with that score.
        misplaced: ``[N]``, what ``other - own`` would be if the image had a random wrong label; see
            :func:`.label_noise`. NaN for the only image of a class.
        rivals: ``[N, R]``, the other classes of the highest scores, the highest first.
        beats: ``[N, R]``, whether the score of the rival is at least that of the own class.
    """

    own: Floats
    other: Floats
    suggested: Ints
    misplaced: Floats
    rivals: Ints
    beats: NDArray[np.bool_]


def class_scores(
    embeddings: NDArray[Any], labels: Ints, num_classes: int, seed: int = 0
) -> ClassScores:
    """Return the class scores of images.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]``, in 0..C-1; each class has an image.
        num_classes: C, at least 2.
        seed: The seed of the random wrong labels.
    """
    rng = np.random.default_rng(seed)
    shift = rng.integers(1, num_classes, len(labels))
    parts: list[tuple[NDArray[Any], ...]] = []
    for rows, scores in score_blocks(embeddings, labels, num_classes):
        here, own_class = np.arange(len(rows)), labels[rows]
        own = scores[here, own_class]
        wrong = (own_class + shift[rows]) % num_classes
        score_of_wrong = scores[here, wrong]
        # With the wrong label, the best other class is mostly the right one.
        others = scores.copy()
        others[here, wrong] = -np.inf
        misplaced = others.max(axis=1) - score_of_wrong
        scores[here, own_class] = -np.inf
        count = min(_RIVALS, num_classes - 1)
        top = np.argpartition(scores, num_classes - count, axis=1)[:, num_classes - count :]
        top.sort(axis=1)  # among equal scores, the lower class comes first
        values = np.take_along_axis(scores, top, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        top, values = np.take_along_axis(top, order, 1), np.take_along_axis(values, order, 1)
        alone = np.isneginf(own)
        parts.append((
            np.where(alone, np.nan, own),
            values[:, 0],
            top[:, 0],
            np.where(alone, np.nan, misplaced),
            top,
            (values >= own[:, None]) & ~alone[:, None],
        ))  # fmt: skip
    own, other, suggested, misplaced, rivals, beats = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return ClassScores(own, other, suggested, misplaced, rivals, beats)


def score_blocks(
    embeddings: NDArray[Any], labels: Ints, num_classes: int
) -> Iterator[tuple[Ints, Floats]]:
    """Yield the images block by block: their indices ``[B]`` and their class scores ``[B, C]``.

    The score of the own class of the only image of a class is -inf.
    """
    vectors = directions(embeddings)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_classes))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))  # the column of each image
    columns = vectors[order]
    size = max(1, _BLOCK_BYTES // (4 * len(labels)))
    for start in range(0, len(labels), size):
        rows = np.arange(start, min(start + size, len(labels)))
        similar = cosine(vectors[rows] @ columns.T)  # [B, N]
        similar[np.arange(len(rows)), place[rows]] = -np.inf
        first = np.maximum.reduceat(similar, starts, axis=1)  # [B, C]
        _drop_first(similar, first, starts)
        second = np.maximum.reduceat(similar, starts, axis=1)
        yield rows, np.where(np.isneginf(second), first, (first + second) / 2)


def _drop_first(similar: Floats, first: Floats, starts: Ints) -> None:
    """Set one entry with the maximum ``first`` of each class to -inf, in each row."""
    sizes = np.diff(starts, append=similar.shape[1])
    is_first = similar == np.repeat(first, sizes, axis=1)
    # Of several equal maxima, the one with the highest column goes, so that the others count.
    column = np.where(is_first, np.arange(similar.shape[1]), -1)
    last = np.maximum.reduceat(column, starts, axis=1)  # [B, C]
    np.put_along_axis(similar, last, -np.inf, axis=1)
