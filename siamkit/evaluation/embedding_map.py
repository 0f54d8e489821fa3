"""A map of embeddings in two dimensions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

POINTS = 1500
_SEED = 0
_LEAST = 5
_PERPLEXITY = 30.0
_STEPS = 600


@dataclass(frozen=True)
class Map:
    """Where images lie.

    Attributes:
        indices: ``[M]``, which images.
        places: ``[M, 2]``, each axis from 0 to 1.
    """

    indices: NDArray[np.int64]
    places: NDArray[np.float64]


def embedding_map(embeddings: Tensor, most: int = POINTS) -> Map | None:
    """Lay out images by t-SNE (van der Maaten and Hinton, 2008) on their cosine distances.

    It starts from the two main components and a fixed seed, so the same embeddings give the same
    map. What lies together is alike; distances between groups mean little.

    Args:
        embeddings: ``[N, E]``; need not be normalised.
        most: Of more images, so many are drawn.

    Returns:
        None for fewer than five images, which need no map.
    """
    from sklearn.manifold import TSNE

    count = len(embeddings)
    if count < _LEAST:
        return None
    rng = np.random.default_rng(_SEED)
    indices = np.sort(rng.permutation(count)[:most]).astype(np.int64)
    vectors = F.normalize(embeddings.detach().float().cpu(), dim=-1).numpy()[indices]
    if np.ptp(vectors, axis=0).max() <= 1e-6 or vectors.shape[1] < 2:
        return None  # all images are one point, or lie on a line
    layout = TSNE(
        # On the unit sphere Euclidean neighbours are cosine neighbours.
        metric="euclidean",
        init="pca",
        max_iter=_STEPS,
        perplexity=min(_PERPLEXITY, (len(indices) - 1) / 3),
        random_state=_SEED,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sklearn's own numerics on degenerate input
        places = layout.fit_transform(vectors).astype(np.float64)
    if not np.isfinite(places).all():
        return None
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-12)
    return Map(indices, (places - low) / span)
