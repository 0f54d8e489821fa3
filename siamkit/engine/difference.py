"""The relative difference of two results."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from siamkit.model.device import float64_device


def relative_difference(
    output: Tensor, reference: Tensor, *, floor: float = 0.0, equal_nan: bool = False
) -> float:
    """Return the largest absolute difference divided by the largest magnitude of ``reference``.

    Args:
        output: A tensor of any type.
        reference: The tensor to compare it with.
        floor: The smallest magnitude to divide by.
        equal_nan: Whether NaN and infinity are equal to themselves.

    Returns:
        The relative difference. It is infinite, and so exceeds any tolerance, if the shapes differ
        or a value is not finite. It is 0 for empty tensors. If ``reference`` is all zeros, the
        divisor is ``floor``, or 1e-12 if ``floor`` is smaller.
    """
    if output.shape != reference.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    wide = torch.complex128 if output.is_complex() or reference.is_complex() else torch.float64
    device = float64_device(reference.device)
    a, b = (tensor.detach().to(device).to(wide) for tensor in (output, reference))
    same = torch.zeros_like(a, dtype=torch.bool)
    if equal_nan:
        same = (a == b) | (a.isnan() & b.isnan())
        if bool(same.all()):
            return 0.0
        b = torch.where(b.isfinite(), b, 0.0)
    scale = max(float(b.abs().max()), floor, 1e-12)
    apart = float(torch.where(same, 0.0, (a - b).abs()).max()) / scale
    return apart if math.isfinite(apart) else float("inf")
