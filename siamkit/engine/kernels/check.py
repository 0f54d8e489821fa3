"""The check of a kernel: compares its output with the plain network's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels.base import EagerKernel, Kernel

TOLERANCE: Mapping[str, float] = {
    "fp32": 1e-4,
    "tf32": 1e-2,
    "fp16": 1e-2,
    "bf16": 5e-2,
}
"""The largest allowed difference relative to the output's largest magnitude, by arithmetic.

Measured over 20 timm architectures, cut in the middle and at the end: float32 kernels differ by at
most 2.5e-6, float16 arithmetic (autocast on a CPU) by 3e-3 and bfloat16 by 3e-2. A wrongly folded
batch norm differs by more than 1e-3.
"""


def tolerance(kernel_class: str) -> float:
    """Return the largest relative difference from the plain network that a kernel may have.

    Args:
        kernel_class: The name of the kernel's arithmetic, such as ``cpu-fp32``.
    """
    return TOLERANCE[kernel_class.rpartition("-")[2]]


def check(kernel: Kernel, prefix: nn.Module, images: Tensor) -> float:
    """Return the difference between ``kernel`` and the plain network on real images.

    Args:
        kernel: The kernel.
        prefix: The prefix that the kernel was built from, in eval mode.
        images: ``[N, C, H, W]``, any N.

    Returns:
        The largest difference between the outputs, relative to the largest magnitude of the plain
        network's output; infinite if the shapes differ or a value is not finite.
    """
    plain = EagerKernel(prefix, kernel.batch_size, kernel.device, "fp32")
    parts = images.split(kernel.batch_size)
    output, reference = (torch.cat([run(part) for part in parts]) for run in (kernel, plain))
    return relative_difference(output, reference)
