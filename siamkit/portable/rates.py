"""Error rates of verification at a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def errors_at(scores: ArrayLike, same: ArrayLike, threshold: float) -> dict[str, Any]:
    """Return accuracy, FAR and FRR at a threshold; a rate is None without pairs of that kind.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.
        threshold: The threshold. A pair is accepted if its score is at or above the threshold.
    """
    accepted, flags = np.asarray(scores) >= threshold, np.asarray(same, dtype=bool)
    return {
        "accuracy": float((accepted == flags).mean()),
        "far": float(accepted[~flags].mean()) if (~flags).any() else None,
        "frr": float((~accepted[flags]).mean()) if flags.any() else None,
        "same": int(flags.sum()),
        "different": int((~flags).sum()),
    }
