"""The cosine similarity: turns products of unit vectors into scores.

A float32 product of two unit vectors has an error of about 1e-7, which depends on where the vectors
lie in memory. So a score is the product, rounded to steps of 2^-20 (about 1e-6) and clipped to
[-1, 1]. Then equal embeddings score exactly 1, and equal similarities are equal numbers. All
metrics treat equal scores as ties.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 20
"""The number of steps from a score of 0 to a score of 1."""


def directions(embeddings: Tensor) -> Tensor:
    """Return embeddings ``[N, E]`` as float32 unit vectors on the CPU. Vectors of zeros stay so."""
    return F.normalize(embeddings.detach().float().cpu(), dim=-1)


def cosine(products: Tensor) -> Tensor:
    """Return products of unit vectors, of any shape, as scores."""
    return steps(products).div_(STEPS).clamp_(-1, 1)


def steps(products: Tensor) -> Tensor:
    """Return products of unit vectors, rounded to a number of steps. Infinity stays infinity."""
    # STEPS is a power of two, so the product is exact and only the rounding changes the value.
    return torch.mul(products, STEPS).round_()
