"""Kernels: implementations of a network's frozen prefix, chosen by measurement and checked."""

from siamkit.engine.kernels.base import (
    Kernel,
    KernelError,
    Precision,
    batch_size,
    kernel_class,
    run,
)
from siamkit.engine.kernels.build import KERNELS, available, build_kernel
from siamkit.engine.kernels.check import TOLERANCE, check, tolerance
from siamkit.engine.kernels.choose import Choice, choose, require_kernel
from siamkit.engine.kernels.remembered import Memory
from siamkit.engine.kernels.worth import worth_building

__all__ = [
    "KERNELS",
    "TOLERANCE",
    "Choice",
    "Kernel",
    "KernelError",
    "Memory",
    "Precision",
    "available",
    "batch_size",
    "build_kernel",
    "check",
    "choose",
    "kernel_class",
    "require_kernel",
    "run",
    "tolerance",
    "worth_building",
]
