"""The relative difference of two results."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest absolute difference over the largest magnitude of ``reference``.

    Returns:
        Infinity if the shapes differ or a value is not finite, so that it exceeds any tolerance; 0
        for empty tensors. A difference from zeros is absolute, in units of 1e-12.
    """
    if output.shape != reference.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    plain, other = reference.detach().float(), output.detach().float().to(reference.device)
    difference = (other - plain).abs().max() / plain.abs().max().clamp_min(1e-12)
    return float(difference) if torch.isfinite(difference) else float("inf")
