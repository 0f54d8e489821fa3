"""Confusions: pairs of classes whose images have each other as the nearest image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.neighbourhood import Neighbourhood

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """Two classes that a network confuses.

    Attributes:
        classes: The two classes.
        wrong: The number of queries of either class whose nearest image is of the other.
        queries: The number of queries of both classes.
        example: Such a query and its nearest image: the most similar ones.
        score: The similarity of the example.
    """

    classes: tuple[int, int]
    wrong: int
    queries: int
    example: tuple[int, int]
    score: float


def confusions(near: Neighbourhood, labels: Ints, most: int) -> list[Confusion]:
    """Return the pairs of classes that are confused most often, the most frequent first.

    An image of another class that is as near as one of the query's own class counts too, whatever
    the order of the images.

    Args:
        near: The neighbours of the images. Queries that can be right (``findable``) count.
        labels: ``[N]``, the class of each image.
        most: The largest number of pairs.
    """
    nearest = near.nearest_other
    queries = np.bincount(labels[near.findable], minlength=int(labels.max()) + 1)
    wrong = np.flatnonzero(near.findable & (nearest >= 0))
    # The most similar first, so that the first pair of two classes is their example.
    wrong = wrong[np.argsort(-near.scores[wrong, 0], kind="stable")]
    counts: dict[tuple[int, int], int] = {}
    examples: dict[tuple[int, int], int] = {}
    for index in wrong.tolist():
        first, second = sorted((int(labels[index]), int(labels[nearest[index]])))
        counts[first, second] = counts.get((first, second), 0) + 1
        examples.setdefault((first, second), index)
    result = [
        Confusion(
            pair,
            count,
            int(queries[pair[0]] + queries[pair[1]]),
            (examples[pair], int(nearest[examples[pair]])),
            float(near.scores[examples[pair], 0]),
        )
        for pair, count in counts.items()
    ]
    result.sort(key=lambda found: (-found.wrong, found.queries, found.classes))
    return result[:most]
