"""The L2 normalisation of embeddings, with a gradient that is always finite."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-12
"""The length up to which a vector has no direction."""


def unit(vectors: Tensor) -> Tensor:
    """Return vectors ``[..., E]`` divided by their lengths; one of zeros stays zeros.

    ``F.normalize`` multiplies the gradient of a vector of zeros by 1e12, so one image whose
    features are all zero would end a training. Such a vector has no direction to improve, so its
    gradient here is zero.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    # Not length > SHORTEST, which is false for NaN and would hide it.
    return torch.where(length <= SHORTEST, 0.0, vectors / length.clamp_min(SHORTEST))
