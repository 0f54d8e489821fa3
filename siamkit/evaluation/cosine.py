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

from siamkit.errors import DataError

STEPS = 1 << 20
"""Steps of a score per unit."""


def directions(embeddings: Tensor) -> Tensor:
    """Return embeddings ``[N, E]`` as unit vectors, float32, on the CPU; zeros stay zeros.

    Raises:
        DataError: They are complex numbers.
    """
    if embeddings.is_complex():
        raise DataError(
            "are complex numbers", where="embeddings", got=str(embeddings.dtype), allowed="floats"
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
    """Return products of unit vectors as whole numbers of steps; infinite ones stay infinite."""
    # A power of two, so that only the rounding changes a digit.
    return torch.mul(products, STEPS).round_()
