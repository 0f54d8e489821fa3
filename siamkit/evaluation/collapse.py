"""Collapse: notices embeddings that hardly differ or consist of zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.portable.cosine import directions
from siamkit.words import plural

COLLAPSED = 0.999
"""Embeddings count as collapsed if the mean cosine similarity of different images reaches this.

The features of untrained backbones reach 0.98, because a ReLU leaves only positive values.
"""


def collapse(embeddings: NDArray[Any]) -> str | None:
    """Return a notice if embeddings ``[N, E]`` consist of zeros or hardly differ; None otherwise.

    The embeddings must be those of different images.
    """
    vectors = directions(embeddings)
    count = len(vectors)
    zeros = int((~vectors.any(axis=1)).sum())
    if zeros:
        return (
            f"{zeros} of {plural(count, 'embedding')} consist of zeros: the network extracts "
            "no features from these images, so their similarity to every image is 0"
        )
    similar = mean_cosine(vectors)
    if similar < COLLAPSED:
        return None
    return (
        f"the embeddings have collapsed: those of different images are nearly the same (mean "
        f"cosine similarity {similar:.5f}), so the network hardly tells images apart"
    )


def mean_cosine(vectors: NDArray[np.float32]) -> float:
    """Return the mean cosine similarity over all pairs of unit vectors ``[N, E]``; 0 if N < 2."""
    count = len(vectors)
    if count < 2:
        return 0.0
    # The squared length of the sum holds each pair's product twice, and each vector's square once.
    total = vectors.sum(axis=0, dtype=np.float64)
    own = np.square(vectors, dtype=np.float64).sum()
    return float((total @ total - own) / (count * (count - 1)))
