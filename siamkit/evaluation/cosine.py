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

from siamkit.errors import DataError

STEPS = 1 << 20
"""The number of steps from a score of 0 to a score of 1."""


def directions(embeddings: Tensor) -> Tensor:
    """Return embeddings ``[N, E]`` as unit vectors, float32, on the CPU; zeros stay zeros.

    Raises:
        DataError: The embeddings are complex numbers.
    """
    if embeddings.is_complex():
        raise DataError(
            "must be real numbers", where="embeddings", got=str(embeddings.dtype), allowed="floats"
        )
    vectors = embeddings.detach().cpu()
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    return F.normalize(_near_one(wide).float(), dim=-1)


def _near_one(vectors: Tensor) -> Tensor:
    """Return vectors divided so that the largest value of each is between 1 and 2.

    Otherwise the squares of a long or a short vector would be infinite or zero. The divisors are
    powers of two, so that no digit changes.
    """
    if not vectors.numel():
        return vectors
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    power = largest / (2 * torch.frexp(largest).mantissa)
    # Zeros, NaN and infinity stay as they are.
    return vectors / torch.where(torch.isfinite(power), power, 1)


def cosine(products: Tensor) -> Tensor:
    """Return products of unit vectors, of any shape, as scores."""
    return steps(products).div_(STEPS).clamp_(-1, 1)


def steps(products: Tensor) -> Tensor:
    """Return products of unit vectors as a whole number of steps. Infinity stays infinity."""
    # STEPS is a power of two, so the product is exact and only the rounding changes the value.
    return torch.mul(products, STEPS).round_()
