"""The candidates of a recipe: what is compared before a run is trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from siamkit.comparison.arms import Arm
from siamkit.config import CLOSED_FORM

CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {
        "freeze.name": "full", "loss.name": "supcon", "head.name": CLOSED_FORM,
        "data.augment.preset": "marks",
    },
    {
        "freeze.name": "full", "loss.name": "supcon", "head.name": CLOSED_FORM,
        "data.augment.preset": "objects",
    },
    {
        "freeze.name": "full", "loss.name": "supcon", "head.name": "residual",
        "data.augment.preset": "marks",
    },
    {
        "freeze.name": "stages", "freeze.warmup": 0, "loss.name": "multi-similarity",
        "head.name": "residual", "data.augment.preset": "marks",
    },
)  # fmt: skip
"""The values of each candidate by dotted key, the most promising first."""

AUGMENTATIONS: tuple[Mapping[str, Any], ...] = tuple(
    {"data.augment.preset": preset} for preset in ("objects", "marks", "documents", "none")
)
"""The candidates of a recipe of which only the augmentation is open, the default first: if the
budget allows only one, it stays."""

KINDS = ("auto", "augment")
"""The kinds of a choice: of the whole recipe, or of the augmentation alone."""

_SILENT = "freeze.warmup"
"""The key that is no part of a candidate's name."""


def candidates(fixed: Collection[str], kind: str = "auto") -> tuple[Arm, ...]:
    """Return the candidates without the keys that are fixed, each combination once.

    Args:
        fixed: The dotted keys that the user has set.
        kind: One of :data:`KINDS`.
    """
    found: dict[str, Arm] = {}
    for values in _values(kind):
        left = {
            key: value
            for key, value in values.items()
            if key not in fixed and not (key == _SILENT and "freeze.name" in fixed)
        }
        name = ", ".join(str(value) for key, value in left.items() if key != _SILENT)
        if name:
            found.setdefault(name, Arm(name, left))
    return tuple(found.values())


def keys(kind: str) -> frozenset[str]:
    """Return the dotted keys that a choice of a kind may set."""
    return frozenset(key for values in _values(kind) for key in values)


def _values(kind: str) -> tuple[Mapping[str, Any], ...]:
    return CANDIDATES if kind == "auto" else AUGMENTATIONS
