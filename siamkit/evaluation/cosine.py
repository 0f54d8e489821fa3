"""The cosine similarity: every score of siamkit is one, and this module says what a score is.

A float32 product of two unit vectors has an error of some 1e-7, which depends on where the vectors
lie in memory. So products are clipped to [-1, 1] and rounded to steps of 2^-20, about 1e-6: equal
embeddings score exactly 1, and equal similarities are equal numbers. All metrics treat scores that
are equal so as a tie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 20
"""Steps of a score per unit."""


def directions(embeddings: Tensor) -> Tensor:
    """Return embeddings ``[N, E]`` as unit vectors, float32, on the CPU; zeros stay zeros."""
    return F.normalize(embeddings.detach().float().cpu(), dim=-1)


def cosine(products: Tensor) -> Tensor:
    """Return products of unit vectors, of any shape, as scores."""
    return steps(products).div_(STEPS).clamp_(-1, 1)


def steps(products: Tensor) -> Tensor:
    """Return products of unit vectors as whole numbers of steps; infinite ones stay infinite."""
    # A power of two, so that only the rounding changes a digit.
    return torch.mul(products, STEPS).round_()
