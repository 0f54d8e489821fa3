"""Near duplicates: pairs of images that a network can hardly tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.portable.cosine import directions
from siamkit.portable.nearest import nearest

_ENOUGH = 0.1


@dataclass(frozen=True)
class Twins:
    """Two images that are nearest to each other; others may be as near.

    Attributes:
        first: The index of one image.
        second: The index of the other image.
        score: Their cosine similarity.
    """

    first: int
    second: int
    score: float


def limit_of(embeddings: NDArray[Any], copies: NDArray[Any]) -> float:
    """Return the similarity from which two images are near duplicates.

    It is that of an image and a copy that was scaled down and compressed: nine of ten such copies
    are at least as similar. So the limit depends on what the network distinguishes.

    Args:
        embeddings: ``[S, E]``, of some images.
        copies: ``[S, E]``, of a copy of each.
    """
    scores = np.einsum("se,se->s", directions(embeddings), directions(copies))
    return float(np.quantile(scores, _ENOUGH))


def near_duplicates(embeddings: NDArray[Any], limit: float) -> list[Twins]:
    """Return the pairs of images that are each other's nearest, the most similar first.

    Of several images that are equally near, such as copies, each is paired with the first.

    Args:
        embeddings: ``[N, E]`` with N >= 2, normalised or not.
        limit: The least similarity of a pair.
    """
    vectors = directions(embeddings)
    scores, indices = nearest(vectors, vectors, 2)
    here = np.arange(len(vectors))
    # An image's nearest is itself or, among equal images, one with a lower index.
    place = np.where(indices[:, 0] == here, 1, 0)
    partner, score = indices[here, place], scores[here, place]
    # No image is nearer to the partner, although another one may be as near.
    mutual = ((partner[partner] == here) | (score[partner] <= score)) & (score >= limit)
    ends = {tuple(sorted((int(i), int(partner[i])))): i for i in np.flatnonzero(mutual)}
    pairs = [Twins(first, second, float(score[i])) for (first, second), i in ends.items()]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second))
