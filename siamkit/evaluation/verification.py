"""The metrics of verification: of scored pairs of images of one class or of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from siamkit.errors import DataError

FARS = (1e-1, 1e-2, 1e-3)
POINTS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Rates of false accepts at which a curve is given in numbers."""

LEAST_FALSE_ACCEPTS = 10
"""A rate of false accepts is stated only where that many would be expected at it: from fewer it
could be off by more than half of itself."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from the strictest threshold to the most lenient.

    Attributes:
        far: The share of different pairs that score at or above each threshold.
        tar: The share of same pairs that do.
        thresholds: Falling; the first is infinite, where nothing is accepted.
    """

    far: Floats
    tar: Floats
    thresholds: Floats


@dataclass(frozen=True)
class Verification:
    """How well a score tells same pairs from different ones.

    Attributes:
        auc: Area under the ROC curve.
        eer: The rate at which false accepts and false rejects are equal.
        eer_threshold: The threshold there.
        tar_at_far: By rate of false accepts, the share of same pairs that are accepted; None where
            there are too few different pairs to tell such a rate.
        same: Same pairs.
        different: Different pairs.
    """

    auc: float
    eer: float
    eer_threshold: float
    tar_at_far: dict[float, float | None]
    same: int
    different: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields; rates of false accepts are named ``tar@far=0.01``."""
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
        scores: ``[P]``, higher for pairs that are more alike.
        same: ``[P]`` bool, whether the pair is of one class.

    Raises:
        DataError: There are no same or no different pairs, or a score is not finite.
    """
    values, flags = _checked(scores, same)
    far, tar, thresholds = roc_curve(flags, values, drop_intermediate=False)
    return Roc(far, tar, thresholds)


def verification(
    scores: ArrayLike, same: ArrayLike, *, fars: Sequence[float] = FARS
) -> Verification:
    """Return the metrics of scored pairs. Arguments and errors are those of :func:`roc`."""
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
    """Return the rate at which false accepts and false rejects are equal, and the threshold.

    Between two points of the curve both are interpolated.
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
    """Return the largest share of same pairs accepted while false accepts stay at ``far`` or below.

    Args:
        curve: The curve.
        far: The rate.
        different: How many different pairs the curve was made of.

    Returns:
        None where fewer than :data:`LEAST_FALSE_ACCEPTS` of them would be accepted at that rate.
    """
    if different * far < LEAST_FALSE_ACCEPTS * (1 - 1e-9):
        return None
    return float(curve.tar[curve.far <= far * (1 + 1e-9)].max())


@dataclass(frozen=True)
class OperatingPoint:
    """A point of a ROC curve.

    Attributes:
        far: The rate of false accepts that was asked for.
        tar: The share of same pairs accepted there.
        threshold: The score from which on pairs are accepted; infinite where none is.
    """

    far: float
    tar: float
    threshold: float


def operating_points(
    curve: Roc, different: int, fars: Sequence[float] = POINTS
) -> list[OperatingPoint]:
    """Return the points of a curve at some rates, as far as there are pairs enough to tell them.

    Arguments are those of :func:`tar_at_far`.
    """
    points = []
    for far in fars:
        tar = tar_at_far(curve, far, different)
        if tar is not None:
            at = int(np.flatnonzero(curve.far <= far * (1 + 1e-9))[-1])
            points.append(OperatingPoint(far, tar, float(curve.thresholds[at])))
    return points


def threshold_at_far(scores: ArrayLike, same: ArrayLike, far: float) -> float:
    """Return the most lenient threshold with a rate of false accepts of at most ``far``.

    It lies half-way between the two scores that it parts, and above all where every one is too
    many. A pair is accepted if its score is at or above the threshold. Arguments and errors are
    those of :func:`roc`.
    """
    values, flags = _checked(scores, same)
    curve = roc(values, flags)
    last = int(np.flatnonzero(curve.far <= far * (1 + 1e-9))[-1])
    return threshold_at(curve, last)


def best_threshold(scores: ArrayLike, same: ArrayLike) -> tuple[float, float]:
    """Return the threshold of the highest accuracy, and that accuracy.

    Same and different pairs count as they are; give as many of each for a balanced one. Arguments
    and errors are those of :func:`roc`.
    """
    values, flags = _checked(scores, same)
    curve = roc(values, flags)
    positives, negatives = int(flags.sum()), int((~flags).sum())
    right = curve.tar * positives + (1 - curve.far) * negatives
    best = int(np.argmax(right))
    return threshold_at(curve, best), float(right[best] / len(values))


@dataclass(frozen=True)
class FoldedAccuracy:
    """Accuracy on folds that the threshold was not chosen on.

    Attributes:
        mean: Over the folds.
        standard_error: Of the mean, as LFW reports it.
        accuracies: Of each fold.
        thresholds: Chosen for each fold, on the others.
    """

    mean: float
    standard_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def k_fold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> FoldedAccuracy:
    """Return the accuracy by the protocol of LFW (Huang et al., 2007).

    For each fold the threshold is the best one of the other folds' pairs.

    Args:
        scores: ``[P]``
        same: ``[P]`` bool.
        folds: ``[P]``, the number of each pair's fold; two different ones at least.

    Raises:
        DataError: As :func:`roc`, for the pairs outside any fold; or there is one fold only.
    """
    values, flags = _checked(scores, same)
    numbers = np.asarray(folds)
    names = np.unique(numbers)
    if len(names) < 2:
        raise DataError("needs two folds at least", got=len(names))
    accuracies, thresholds = [], []
    for name in names:
        held = numbers == name
        threshold, _ = best_threshold(values[~held], flags[~held])
        thresholds.append(threshold)
        accuracies.append(float(((values[held] >= threshold) == flags[held]).mean()))
    spread = float(np.std(accuracies, ddof=1) / np.sqrt(len(names)))
    return FoldedAccuracy(float(np.mean(accuracies)), spread, tuple(accuracies), tuple(thresholds))


def threshold_at(curve: Roc, index: int) -> float:
    """Return a threshold that accepts what ``curve.thresholds[index]`` does, far from both sides.

    It lies half-way between the two scores that it parts; above all of them, just so.
    """
    if index + 1 == len(curve.thresholds):
        return float(curve.thresholds[index])
    lower = curve.thresholds[index + 1]
    # The first is infinite: just above the highest score, nothing is accepted.
    upper = curve.thresholds[index] if index else np.nextafter(lower, np.inf)
    middle = (upper + lower) / 2
    # Between neighbours there is no number: half-way is then one of them.
    return float(middle if index and middle > lower else upper)


def errors_at(scores: ArrayLike, same: ArrayLike, threshold: float) -> dict[str, Any]:
    """Return accuracy, FAR and FRR at a threshold; a rate is None where there is no such pair.

    Args:
        scores: ``[P]``
        same: ``[P]`` bool.
        threshold: A pair is accepted if its score is at or above it.
    """
    accepted, flags = np.asarray(scores) >= threshold, np.asarray(same, dtype=bool)
    return {
        "accuracy": float((accepted == flags).mean()),
        "far": float(accepted[~flags].mean()) if (~flags).any() else None,
        "frr": float((~accepted[flags]).mean()) if flags.any() else None,
        "same": int(flags.sum()),
        "different": int((~flags).sum()),
    }


def _checked(scores: ArrayLike, same: ArrayLike) -> tuple[Floats, Bools]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if values.shape != flags.shape or values.ndim != 1:
        raise DataError(
            "scores and flags must be one a pair", got=f"{values.shape} and {flags.shape}"
        )
    if not np.isfinite(values).all():
        raise DataError("a score is NaN or infinite")
    for count, kind in ((flags.sum(), "same"), ((~flags).sum(), "different")):
        if not count:
            raise DataError(f"there is no {kind} pair", hint="verification needs both kinds")
    return values, flags
