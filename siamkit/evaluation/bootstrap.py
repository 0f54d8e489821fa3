"""Confidence intervals of verification metrics, by resampling identities.

Pairs that share an identity are not independent, so resampling pairs would give intervals that are
far too narrow. The bootstrap therefore draws whole identities (Bolle et al., "Error analysis of
pattern recognition systems: the subsets bootstrap", 2004). The weight of a pair is the number of
times that its identity was drawn; for two identities, the product of both numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamkit.errors import DataError
from siamkit.evaluation.verification import Roc, equal_error_rate, index_at_far

DRAWS = 1000
_COVERAGE = 0.95
_LEAST = 4
"""The fewest identities to resample.

With two, all usable resamples are alike. With three, an interval holds the truth in 80 % of cases.
"""

Floats = NDArray[np.float64]
Statistic = Callable[[Roc], float]


def area(curve: Roc) -> float:
    """Return the area under a ROC curve."""
    return float(np.trapezoid(curve.tar, curve.far))


def eer(curve: Roc) -> float:
    """Return the equal error rate of a ROC curve."""
    return equal_error_rate(curve)[0]


def tar_at(far: float) -> Statistic:
    """Return a function that returns the true accept rate of a ROC curve at a given FAR."""
    return lambda curve: float(curve.tar[index_at_far(curve, far)])


def identity_intervals(
    scores: ArrayLike,
    same: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    statistics: dict[str, Statistic],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return a 95 % interval of each statistic.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for same pairs. Listed pairs can contradict each other, so a pair
            that is listed as different may be of one identity.
        first: ``[P]``, the identity of each pair's first image.
        second: ``[P]``, the identity of each pair's second image.
        statistics: The functions that compute a statistic from a ROC curve, by name.
        draws: The number of resamples.
        seed: The seed of the resamples.

    Raises:
        DataError: There are no same pairs, no different pairs, fewer than four identities, or the
            resamples are all alike.
    """
    names, codes = np.unique(np.stack([first, second]), return_inverse=True)
    a, b = codes.reshape(2, np.size(first))
    flags, within = np.asarray(same, dtype=bool), a == b
    if len(names) < 2 or not flags.any() or flags.all():
        raise DataError("there must be same and different pairs, of at least two identities")
    if len(names) < _LEAST:
        raise DataError(
            "too few identities to resample", got=len(names), allowed=f"{_LEAST} or more",
            hint="use more classes",
        )  # fmt: skip
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    a, b, flags, within = a[order], b[order], flags[order], within[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores form one point
    thresholds = np.append(np.inf, ranked[ends])
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in statistics}
    different: set[bytes] = set()
    for _ in range(draws):
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        curve = _weighted(np.where(within, times[a], times[a] * times[b]), flags, ends, thresholds)
        if curve is None:
            continue
        different.add(times.tobytes())
        for name, statistic in statistics.items():
            drawn[name].append(statistic(curve))
    if len(different) < 2:
        raise DataError("the resamples are all alike", hint="use more classes")
    tails = (100 * (1 - _COVERAGE) / 2, 100 * (1 + _COVERAGE) / 2)
    return {name: _interval(values, tails) for name, values in drawn.items()}


def _weighted(weights: Any, same: Any, ends: Any, thresholds: Floats) -> Roc | None:
    accepted = np.cumsum(weights * same)[ends].astype(np.float64)
    falsely = np.cumsum(weights * ~same)[ends].astype(np.float64)
    if not accepted[-1] or not falsely[-1]:
        return None  # the resample has pairs of one kind only
    return Roc(
        np.append(0.0, falsely / falsely[-1]), np.append(0.0, accepted / accepted[-1]), thresholds
    )


def _interval(values: list[float], tails: tuple[float, float]) -> tuple[float, float]:
    low, high = np.percentile(values, tails)
    return float(low), float(high)
