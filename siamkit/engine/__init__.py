"""The engine: lets the frozen part of a network run once per image instead of in every epoch.

The functions work on any ``torch.nn.Module``. Start with :func:`cut`, which splits a network into a
prefix (its frozen first layers) and a suffix (the rest). :class:`FeatureCache` stores the prefix's
output on the disk. :func:`choose_kernel` picks the fastest implementation of the prefix (a
*kernel*, such as ``torch.compile``) whose output agrees with the plain network's. The names load on
first use, so that importing siamkit doesn't import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siamkit.lazy import lazily

if TYPE_CHECKING:
    from siamkit.engine.blank import SuffixError
    from siamkit.engine.boundary import Boundary, find_boundaries
    from siamkit.engine.cutting import Cut, CutResult, cut, first_exact_cut
    from siamkit.engine.feature_cache import CachedRows, FeatureCache
    from siamkit.engine.kernels import KERNELS, Choice, Kernel, build_kernel
    from siamkit.engine.kernels import choose as choose_kernel
    from siamkit.engine.kernels import run as run_kernel

_HOME = {
    "siamkit.engine.blank": ("SuffixError",),
    "siamkit.engine.boundary": ("Boundary", "find_boundaries"),
    "siamkit.engine.cutting": ("Cut", "CutResult", "cut", "first_exact_cut"),
    "siamkit.engine.feature_cache": ("CachedRows", "FeatureCache"),
    "siamkit.engine.kernels": (
        "KERNELS", "Choice", "Kernel", "build_kernel", "choose_kernel", "run_kernel",
    ),
}  # fmt: skip

__all__ = [
    "KERNELS",
    "Boundary",
    "CachedRows",
    "Choice",
    "Cut",
    "CutResult",
    "FeatureCache",
    "Kernel",
    "SuffixError",
    "build_kernel",
    "choose_kernel",
    "cut",
    "find_boundaries",
    "first_exact_cut",
    "run_kernel",
]

__getattr__, __dir__ = lazily(
    __name__, _HOME, renamed={"choose_kernel": "choose", "run_kernel": "run"}
)
