"""Paired differences between two recipes, with intervals over classes and over trained networks.

Two recipes are measured on the same held-out classes, with networks trained on the same classes.
The difference varies for two reasons: other classes would give another one, and so would other
networks (another seed, another part of the data to train on). Queries of one class are alike, and
so are the queries of one network, so neither the queries nor the runs alone are independent. The
standard error is therefore clustered by class and by run (Cameron, Gelbach and Miller, "Robust
Inference With Multiway Clustering", 2011), with Student's distribution for few clusters. If nothing
varies, the standard error is that of one query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from siamkit.errors import DataError

COVERAGE = 0.95

_ONE_QUERY, _ROUNDING = 1.0, 1e-9
"""The squared effect of one query that is found by one recipe alone, and what is only rounding."""

Totals = Mapping[str, tuple[int, float]]
"""The number of queries of each class, and the sum of a metric over them."""


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two recipes.

    Attributes:
        value: The mean over all queries of both recipes' common runs.
        low: The lower end of the interval; None if one run or one class shows no variation.
        high: The upper end.
        runs: The number of common runs.
        same: Whether the recipes agree in every class of every run.
    """

    value: float
    low: float | None
    high: float | None
    runs: int
    same: bool

    @property
    def half(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def difference(
    first: Sequence[Totals], second: Sequence[Totals], coverage: float = COVERAGE
) -> Difference:
    """Return the difference of a metric, first less second, with its interval.

    Args:
        first: What the first recipe gives in each run.
        second: What the second recipe gives in the same runs, with the same queries.
        coverage: The coverage of the interval, in (0, 1).

    Raises:
        DataError: The queries of a run are not the same, so there are no pairs.
    """
    counts, sums = _tables(first, second)
    queries = counts.sum()
    value = float(sums.sum() / queries)
    rest = sums - value * counts  # [runs, classes], 0 where a run has no query of a class
    classes = int((counts.sum(axis=0) > 0).sum())
    runs, same = len(rest), not sums.any()
    if runs < 2 or classes < 2:
        return Difference(value, None, None, runs, same)
    by_class = float((rest.sum(axis=0) ** 2).sum()) * classes / (classes - 1)
    by_run = float((rest.sum(axis=1) ** 2).sum()) * runs / (runs - 1)
    # What both count is subtracted once; a negative rest would say that a cluster has no effect.
    both = float((rest**2).sum())
    variation = max(by_class + by_run - both, by_class, by_run)
    if variation < _ROUNDING:  # recipes that differ nowhere in a few runs may do so in the next one
        variation = _ONE_QUERY
    variance = variation / queries**2
    half = _quantile(coverage, min(classes, runs) - 1) * sqrt(variance)
    return Difference(value, value - half, value + half, runs, same)


def mean(totals: Sequence[Totals]) -> float:
    """Return the mean of a metric over all queries of all runs."""
    pairs = [pair for run in totals for pair in run.values()]
    return sum(total for _, total in pairs) / sum(count for count, _ in pairs)


def _tables(first: Sequence[Totals], second: Sequence[Totals]) -> tuple[Any, NDArray[np.float64]]:
    """Return the queries and the summed differences by run and class, ``[runs, classes]``."""
    names = sorted({name for run in first for name in run})
    place = {name: i for i, name in enumerate(names)}
    counts, sums = np.zeros((2, len(first), len(names)))
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        _require_paired(one, other)
        for name, (count, total) in one.items():
            counts[row, place[name]] = count
            sums[row, place[name]] = total - other[name][1]
    return counts, sums


def _require_paired(one: Totals, other: Totals) -> None:
    """Check that two recipes have the same number of queries of each class in a run."""
    for name in sorted({*one, *other}):
        counts = [totals.get(name, (0, 0.0))[0] for totals in (one, other)]
        if counts[0] != counts[1]:
            raise DataError(
                f"the class {name!r} has {counts[0]} queries for one arm and {counts[1]} for "
                "another, so they were measured on different images",
                hint="compare them anew, in another folder",
            )


def _quantile(coverage: float, freedom: int) -> float:
    """Return the quantile of Student's distribution that bounds the interval."""
    return float(stdtrit(freedom, (1 + coverage) / 2))
