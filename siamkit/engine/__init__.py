"""The engine: runs the frozen part of a network once.

Its functions work on any ``torch.nn.Module``; :func:`cut` is where to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamkit.engine.boundary import Boundary, find_boundaries
    from siamkit.engine.cutting import Cut, CutResult, cut, first_exact_cut

_FROM = {
    "Boundary": "boundary",
    "find_boundaries": "boundary",
    "Cut": "cutting",
    "CutResult": "cutting",
    "cut": "cutting",
    "first_exact_cut": "cutting",
}

__all__ = ["Boundary", "Cut", "CutResult", "cut", "find_boundaries", "first_exact_cut"]


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
