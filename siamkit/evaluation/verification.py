"""The metrics of verification: ROC, AUC, EER and TAR at FAR of scored pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamkit.errors import DataError

FARS = (1e-1, 1e-2, 1e-3)
POINTS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""The false accept rates of the points in a table of the ROC curve."""

LEAST_FALSE_ACCEPTS = 10
"""A false accept rate is reported only if at least this many false accepts are expected at it.

With fewer, the measured rate could be off by more than half of the rate.
"""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from the strictest to the most lenient threshold.

    Attributes:
        far: The share of different pairs at or above each threshold.
        tar: The share of same pairs at or above each threshold.
        thresholds: The thresholds, descending. The first is infinite and accepts no pair.
    """

    far: Floats
    tar: Floats
    thresholds: Floats


@dataclass(frozen=True)
class Verification:
    """The verification metrics of scored pairs.

    Attributes:
        auc: The area under the ROC curve.
        eer: The equal error rate, at which the rates of false accepts and false rejects are equal.
        eer_threshold: The threshold at the equal error rate.
        tar_at_far: For each false accept rate, the share of same pairs that are accepted at it;
            None if there are too few different pairs to measure that rate.
        same: The number of same pairs.
        different: The number of different pairs.
    """

    auc: float
    eer: float
    eer_threshold: float
    tar_at_far: dict[float, float | None]
    same: int
    different: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; TAR at FAR is named ``tar@far=0.01``."""
        return {
            "auc": self.auc,
            "eer": self.eer,
            "eer_threshold": self.eer_threshold,
            **{f"tar@far={far:g}": tar for far, tar in self.tar_at_far.items()},
            "same": self.same,
            "different": self.different,
        }


def roc(scores: ArrayLike, same: ArrayLike) -> Roc:
    """Return the ROC curve of scored pairs.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.

    Raises:
        DataError: There are no same or no different pairs, or a score is not finite.
    """
    from sklearn.metrics import roc_curve  # slow to import

    values, flags = _checked(scores, same)
    far, tar, thresholds = roc_curve(flags, values, drop_intermediate=False)
    return Roc(far, tar, thresholds)


def verification(
    scores: ArrayLike, same: ArrayLike, *, fars: Sequence[float] = FARS
) -> Verification:
    """Return the metrics of scored pairs.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.
        fars: The false accept rates for :attr:`Verification.tar_at_far`.

    Raises:
        DataError: There are no same or no different pairs, or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    values, flags = _checked(scores, same)
    curve = roc(values, flags)
    eer, threshold = equal_error_rate(curve)
    different = int((~flags).sum())
    return Verification(
        float(roc_auc_score(flags, values)),
        eer,
        threshold,
        {far: tar_at_far(curve, far, different) for far in fars},
        int(flags.sum()),
        different,
    )


def equal_error_rate(curve: Roc) -> tuple[float, float]:
    """Return the equal error rate and its threshold.

    Both are interpolated between the points of the curve.
    """
    gap = curve.far - (1 - curve.tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    share = -gap[before] / (gap[after] - gap[before])
    rate = curve.far[before] + share * (curve.far[after] - curve.far[before])
    low, high = curve.thresholds[after], curve.thresholds[before]
    if not np.isfinite(high):
        return float(rate), float(low)
    return float(rate), float(high + share * (low - high))


def tar_at_far(curve: Roc, far: float, different: int) -> float | None:
    """Return the largest share of accepted same pairs at a false accept rate of at most ``far``.

    Args:
        curve: The curve.
        far: The false accept rate.
        different: The number of different pairs of the curve.

    Returns:
        The share; None if fewer than :data:`LEAST_FALSE_ACCEPTS` false accepts are expected at that
        rate.
    """
    if different * far < LEAST_FALSE_ACCEPTS * (1 - 1e-9):
        return None
    return float(curve.tar[index_at_far(curve, far)])


def index_at_far(curve: Roc, far: float) -> int:
    """Return the index of the most lenient point with a false accept rate of at most ``far``."""
    return int(np.flatnonzero(curve.far <= far * (1 + 1e-9))[-1])  # rates are rounded quotients


@dataclass(frozen=True)
class OperatingPoint:
    """A point of a ROC curve.

    Attributes:
        far: The requested false accept rate. The point's own rate is at most this.
        tar: The share of same pairs that are accepted.
        threshold: The lowest accepted score; infinite if no pair is accepted.
    """

    far: float
    tar: float
    threshold: float


def operating_points(
    curve: Roc, different: int, fars: Sequence[float] = POINTS
) -> list[OperatingPoint]:
    """Return the points of a curve at the given false accept rates, if there are enough pairs.

    A rate is left out if :func:`tar_at_far` gives None for it.

    Args:
        curve: The curve.
        different: The number of different pairs of the curve.
        fars: The false accept rates.
    """
    points = []
    for far in fars:
        tar = tar_at_far(curve, far, different)
        if tar is not None:
            threshold = float(curve.thresholds[index_at_far(curve, far)])
            points.append(OperatingPoint(far, tar, threshold))
    return points


def best_threshold(scores: ArrayLike, same: ArrayLike) -> tuple[float, float]:
    """Return the threshold with the highest accuracy, and that accuracy.

    Every pair has the same weight, so the accuracy is only balanced if there are as many same as
    different pairs. The arguments and errors are those of :func:`roc`.
    """
    values, flags = _checked(scores, same)
    curve = roc(values, flags)
    positives, negatives = int(flags.sum()), int((~flags).sum())
    right = curve.tar * positives + (1 - curve.far) * negatives
    best = int(np.argmax(right))
    return threshold_at(curve, best), float(right[best] / len(values))


@dataclass(frozen=True)
class FoldedAccuracy:
    """The accuracy on folds, where the threshold of each fold is chosen on the other folds.

    Attributes:
        mean: The mean over the folds.
        standard_error: The standard error of the mean, as LFW reports it.
        accuracies: The accuracy of each fold.
        thresholds: The threshold of each fold.
    """

    mean: float
    standard_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def k_fold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> FoldedAccuracy:
    """Return the accuracy by the protocol of LFW (Huang et al., 2007).

    The threshold of each fold is the best threshold for the pairs of all other folds.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.
        folds: ``[P]``, the number of each pair's fold. There must be at least two folds.

    Raises:
        DataError: There is only one fold, a score is not finite, or the pairs outside some fold are
            all of one kind.
    """
    values, flags = _checked(scores, same)
    numbers = np.asarray(folds)
    names = np.unique(numbers)
    if len(names) < 2:
        raise DataError("needs at least two folds", got=len(names))
    accuracies, thresholds = [], []
    for name in names:
        held = numbers == name
        threshold, _ = best_threshold(values[~held], flags[~held])
        thresholds.append(threshold)
        accuracies.append(float(((values[held] >= threshold) == flags[held]).mean()))
    spread = float(np.std(accuracies, ddof=1) / np.sqrt(len(names)))
    return FoldedAccuracy(float(np.mean(accuracies)), spread, tuple(accuracies), tuple(thresholds))


def threshold_at(curve: Roc, index: int) -> float:
    """Return a threshold that accepts the same pairs as ``curve.thresholds[index]``.

    The threshold lies half-way between the two neighbouring scores. It is just above the highest
    score if no pair is accepted, and the lowest score if all pairs are.
    """
    if index + 1 == len(curve.thresholds):
        return float(curve.thresholds[index])
    lower = curve.thresholds[index + 1]
    # The first threshold is infinite. Just above the highest score, no pair is accepted either.
    upper = curve.thresholds[index] if index else np.nextafter(lower, np.inf)
    middle = (upper + lower) / 2
    # Adjacent floats have no number between them: half-way may round to the lower one.
    return float(middle if index and middle > lower else upper)


def _checked(scores: ArrayLike, same: ArrayLike) -> tuple[Floats, Bools]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if values.shape != flags.shape or values.ndim != 1:
        raise DataError(
            "there must be one score and one flag per pair", got=f"{values.shape} and {flags.shape}"
        )
    if not np.isfinite(values).all():
        raise DataError("a score is NaN or infinite")
    for count, kind in ((flags.sum(), "same"), ((~flags).sum(), "different")):
        if not count:
            raise DataError(f"there are no {kind} pairs", hint="verification needs both kinds")
    return values, flags
