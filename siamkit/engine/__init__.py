"""The engine: lets the frozen part of a network run once per image instead of in every epoch.

The functions work on any ``torch.nn.Module``. Start with :func:`cut`, which returns a prefix and a
suffix. :class:`FeatureCache` stores the prefix's output on the disk, and :func:`choose_kernel`
finds the fastest kernel that computes it exactly. The names load on first use, so that importing
siamkit doesn't import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamkit.engine.blank import SuffixError
    from siamkit.engine.boundary import Boundary, find_boundaries
    from siamkit.engine.cutting import Cut, CutResult, cut, first_exact_cut
    from siamkit.engine.feature_cache import CachedRows, FeatureCache
    from siamkit.engine.kernels import KERNELS, Choice, Kernel, build_kernel
    from siamkit.engine.kernels import choose as choose_kernel
    from siamkit.engine.kernels import run as run_kernel

_HOME = {
    "KERNELS": ("kernels", "KERNELS"),
    "Boundary": ("boundary", "Boundary"),
    "CachedRows": ("feature_cache", "CachedRows"),
    "Choice": ("kernels", "Choice"),
    "Cut": ("cutting", "Cut"),
    "CutResult": ("cutting", "CutResult"),
    "FeatureCache": ("feature_cache", "FeatureCache"),
    "Kernel": ("kernels", "Kernel"),
    "SuffixError": ("blank", "SuffixError"),
    "build_kernel": ("kernels", "build_kernel"),
    "choose_kernel": ("kernels", "choose"),
    "cut": ("cutting", "cut"),
    "find_boundaries": ("boundary", "find_boundaries"),
    "first_exact_cut": ("cutting", "first_exact_cut"),
    "run_kernel": ("kernels", "run"),
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
