"""The map of embeddings: a layout in two dimensions by t-SNE."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.portable.cosine import directions

POINTS = 1500
_SEED = 0
_LEAST = 5
_PERPLEXITY = 30.0
_STEPS = 400  # 600 take half as long again, and keep at most 0.3 % more of the neighbours


@dataclass(frozen=True)
class Map:
    """The layout of images.

    Attributes:
        indices: The indices ``[M]`` of the images.
        places: The positions ``[M, 2]`` of the images, from 0 to 1 on each axis.
    """

    indices: NDArray[np.int64]
    places: NDArray[np.float64]


def embedding_map(embeddings: NDArray[Any], most: int = POINTS) -> Map | None:
    """Return a t-SNE layout of images (van der Maaten and Hinton, 2008) by cosine distance.

    The layout starts from the two main components and has a fixed seed, so equal embeddings give
    equal maps. Neighbouring points have similar embeddings; distances between groups mean little.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        most: The largest number of images in the map. Of a larger set, a sample is mapped.

    Returns:
        The map; None for fewer than five images, or if the images have no two-dimensional layout.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(embeddings)
    if count < _LEAST:
        return None
    rng = np.random.default_rng(_SEED)
    indices = np.sort(rng.permutation(count)[:most]).astype(np.int64)
    vectors = directions(embeddings)[indices]
    if np.ptp(vectors, axis=0).max() <= 1e-6 or vectors.shape[1] < 2:
        return None  # all images are one point, or the embedding has one dimension
    layout = TSNE(
        # On the unit sphere, Euclidean and cosine distance give the same neighbours.
        metric="euclidean",
        init="pca",
        max_iter=_STEPS,
        perplexity=min(_PERPLEXITY, (len(indices) - 1) / 3),
        random_state=_SEED,
    )
    # Threads that wait for each other take ten times as long on a machine that computes more.
    with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn warns about degenerate input
        places = layout.fit_transform(vectors).astype(np.float64)
    if not np.isfinite(places).all():
        return None
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-12)
    return Map(indices, (places - low) / span)
