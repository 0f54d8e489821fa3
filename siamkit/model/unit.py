"""The L2 normalisation of embeddings, with a gradient that is always finite."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-12
"""A vector of at most this length counts as having no direction."""


def unit(vectors: Tensor) -> Tensor:
    """Return vectors ``[..., E]`` divided by their lengths; a vector without direction gives zeros.

    ``F.normalize`` multiplies the gradient of a vector of zeros by 1e12, so a single image whose
    features are all zero would ruin a training. Here, the gradient of such a vector is zero,
    because the vector has no direction that could be improved.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    # The test length > SHORTEST would be false for NaN, and so hide it.
    return torch.where(length <= SHORTEST, 0.0, vectors / length.clamp_min(SHORTEST))
