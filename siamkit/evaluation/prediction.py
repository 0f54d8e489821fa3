"""The predicted rate of errors on identities that nobody has seen yet.

An interval of a *prediction*, not of an estimate: it says between which ends the rate will be that
is measured on as many other identities, so it holds the luck of both draws.

How large that luck is. Pairs that share an identity err together, so a rate varies as one over
identities does, not as one over pairs. Its variance is the jackknife's, which leaves out one
identity at a time: that stays right where some have far more pairs than others (MacKinnon, Nielsen
& Webb, "Fast and reliable jackknife and bootstrap methods for cluster-robust inference", J. Applied
Econometrics 2023) and is never too small on average (Efron & Stein, "The jackknife estimate of
variance", Annals of Statistics 1981). A pair of identities goes with either of the two, so what is
peculiar to it counts twice (Aronow, Samii & Assenova, "Cluster-robust variance estimation for
dyadic data", Political Analysis 2015, subtract that); here it stays, for identities come in
families, such as the clock faces among emoji or the ranks of one soldier, and no resampling of
identities sees that. For the same reason the variance is taken half as large again: without that,
thresholds of networks trained on sprites in families kept one of five intervals in 8 of 10 splits
only, and with it each in 9 at least. Two draws have twice the variance of one.

How wide that makes the interval. A few confusable identities may make most of the errors, and then
the variance is itself badly known: the quantile is Student's with the degrees of freedom that the
kurtosis of what each one adds gives (Satterthwaite, "An approximate distribution of estimates of
variance components", Biometrics 1946). Rates near 0 are skewed. Two forms are known to deal with
that, the score interval (for predictions: Krishnamoorthy & Peng, "Improved closed-form prediction
intervals for binomial and Poisson distributions", J. Statistical Planning and Inference 2011; for
dependent pairs: Fogliato, Patil & Perona, "Confidence intervals for error rates in 1:1 matching
tasks", IJCV 2024) and the interval on the logit scale (Schuckers, "Computational methods in
biometric authentication", 2010). The first has the better lower end and the second the better
upper one; what is returned is the wider of the two at each end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as student

COVERAGE = 0.95
_FAMILIES = 1.5
"""What the variance is multiplied by, for identities that are not independent of each other."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rate:
    """A rate of errors, and between which ends it will be on as many other identities.

    Attributes:
        rate: What was measured, in [0, 1].
        low: The lower end of a 95 % interval.
        high: The upper end.
    """

    rate: float
    low: float
    high: float


def predicted_rate(wrong: NDArray[np.bool_], first: Ints, second: Ints) -> Rate:
    """Return the rate of errors among pairs, and a 95 % interval of it on other identities.

    Args:
        wrong: ``[P]``, whether a pair is an error; all pairs are same ones, or all different ones.
        first: ``[P]``, the identity of each pair's first image, from 0.
        second: ``[P]``, of its second.
    """
    rate = float(np.mean(wrong))
    codes = np.unique(np.stack([first, second]), return_inverse=True)[1].reshape(2, -1)
    errors = wrong.astype(np.float64) - rate
    units = _by_unit(errors, codes)
    if len(units) < 2:
        return Rate(rate, 0.0, 1.0)  # one identity tells nothing of others
    if not 0 < rate < 1:
        # Nothing shows how errors go together where there are none (or nothing else). What counts
        # is then identities, or pairs of them, as in the rule of three.
        return Rate(rate, *_score_ends(rate, len(units) / _FAMILIES, math.inf))
    shifts = _shifts(errors, codes)
    freedom = min(_freedom(shifts), _freedom(units))
    variance = float((shifts**2).sum()) * (len(shifts) - 1) / len(shifts)
    # No less than that of independent pairs, which a small set can seem to fall below.
    variance = _FAMILIES * max(variance, rate * (1 - rate) / len(wrong))
    low, high = _score_ends(rate, rate * (1 - rate) / variance, freedom)
    spread = _quantile(freedom) * math.sqrt(2 * variance) / (rate * (1 - rate))
    centre = float(logit(rate))
    return Rate(
        rate, min(low, float(expit(centre - spread))), max(high, float(expit(centre + spread)))
    )


def _by_unit(errors: Floats, codes: Ints) -> Floats:
    """Return the sum of ``errors`` of each pair of identities; same pairs have one identity."""
    low, high = codes.min(0), codes.max(0)
    _, unit = np.unique(low * (int(codes.max()) + 1) + high, return_inverse=True)
    return np.bincount(unit, errors).astype(np.float64)


def _shifts(errors: Floats, codes: Ints) -> Floats:
    """Return by how much the mean of ``errors`` changes when each identity is left out.

    Their mean must be 0.
    """
    count = int(codes.max()) + 1
    apart = codes[0] != codes[1]
    a, b = codes[0], codes[1][apart]
    sums = np.bincount(a, errors, count) + np.bincount(b, errors[apart], count)
    sizes = np.bincount(a, minlength=count) + np.bincount(b, minlength=count)
    shifts: Floats = -sums / np.maximum(len(errors) - sizes, 1)
    return shifts


def _freedom(shares: Floats) -> float:
    """Return the degrees of freedom of the mean square of ``shares``."""
    squares = shares**2
    mean = float(squares.mean())
    if not mean:
        return 1.0
    kurtosis = float((squares**2).mean()) / mean**2
    most = max(len(shares) - 1, 1)
    return float(np.clip(2 * len(shares) / max(kurtosis - 1, 1e-9), 1, most))


def _quantile(freedom: float) -> float:
    return float(student.ppf((1 + COVERAGE) / 2, freedom))


def _score_ends(rate: float, draws: float, freedom: float) -> tuple[float, float]:
    """Return the two rates that ``draws`` more independent draws may just give.

    They solve ``(x - rate)^2 = width m (1 - m)`` with ``m = (x + rate) / 2``, the rate if both are
    draws of one, and ``width = 2 / draws`` times the squared quantile.
    """
    width = 2 * _quantile(freedom) ** 2 / draws
    a, b = 1 + width / 4, -(2 * rate + width / 2 - width * rate / 2)
    c = rate**2 - width * rate / 2 + width * rate**2 / 4
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    low, high = max((-b - root) / (2 * a), 0.0), min((-b + root) / (2 * a), 1.0)
    return min(low, rate), max(high, rate)  # rounding
