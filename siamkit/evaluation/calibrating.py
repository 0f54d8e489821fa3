"""Calibration: fits a threshold and a probability to scored pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamkit.data.images import ImageSet
from siamkit.errors import ConfigError, DataError
from siamkit.evaluation.pairs import MOST, known_pairs, pairs_of, scores
from siamkit.evaluation.prediction import predicted_rate
from siamkit.evaluation.verification import (
    LEAST_FALSE_ACCEPTS,
    Roc,
    index_at_far,
    roc,
    threshold_at,
)
from siamkit.portable.calibration import Calibration, Provenance, Rate, Target

_MOST_AT_ALL = 20_000_000  # pairs; each takes about 100 bytes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """A threshold, and the error rates at it.

    Attributes:
        value: The threshold. A pair counts as same if its score is at or above the threshold.
        far: The false accept rate, with its prediction for unseen identities.
        frr: The false reject rate, with its prediction for unseen identities.
    """

    value: float
    far: Rate
    frr: Rate


def calibrate(
    embeddings: NDArray[Any],
    images: ImageSet,
    *,
    target: Target = "eer",
    far: float | None = None,
    source: Mapping[str, Any],
    seed: int = 0,
) -> Calibration:
    """Return the calibration of a network, fitted to the embeddings of known images.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order. Their listed pairs are used; without listed pairs,
            pairs are made from the labels.
        target: What the threshold is to achieve. ``eer``: equal rates of false accepts and false
            rejects. ``far``: at most a given false accept rate. ``accuracy``: the best accuracy,
            with same and different pairs weighted equally.
        far: The false accept rate for the target ``far``; None for other targets.
        source: The origin of the embeddings: the fields ``data``, ``part``, ``digest``,
            ``checkpoint``, ``network``, ``epoch``, ``siamkit`` and ``notices`` of
            :class:`.calibration.Provenance`.
        seed: The seed of the sample of pairs, if there are too many pairs to use all.

    Raises:
        ConfigError: ``target`` is ``far`` without a rate, or another target is given a rate.
        DataError: There are no same or no different pairs, too few pairs for the rate, or same
            pairs score no higher than different ones.
    """
    labels, tuples = np.array(images.labels, np.int64), images.tuples
    most = MOST if far is None else min(max(MOST, 2 * _needed(far)), _MOST_AT_ALL)
    pairs = pairs_of(labels, most=most, seed=seed) if tuples is None else known_pairs(tuples)
    values = scores(embeddings, pairs)
    threshold = fit_threshold(
        values, pairs.same, labels[pairs.first], labels[pairs.second], target=target, far=far
    )
    slope, intercept = fit_probability(values, pairs.same)
    same = int(pairs.same.sum())
    provenance = Provenance(
        images=len(labels),
        identities=len(np.unique(labels)),
        same=same,
        different=len(values) - same,
        all_pairs=pairs.all,
        **source,
    )
    return Calibration(
        target,
        far,
        threshold.value,
        threshold.far,
        threshold.frr,
        slope,
        intercept,
        provenance,
    )


def fit_threshold(
    scores: ArrayLike,
    same: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    target: Target = "eer",
    far: float | None = None,
) -> Threshold:
    """Return the threshold for a target, and the error rates that are expected at it.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.
        first: ``[P]`` int, the identity of each pair's first image, or the image's index if
            identities are unknown.
        second: ``[P]`` int, likewise for each pair's second image.
        target: What the threshold is to achieve; see :func:`calibrate`.
        far: The false accept rate for the target ``far``; None for other targets.

    Raises:
        ConfigError: ``target`` is ``far`` without a rate, or another target is given a rate.
        DataError: There are no same or no different pairs, or too few pairs for the rate.
    """
    if (target == "far") != (far is not None):
        raise ConfigError(
            "the target 'far' needs a false accept rate; other targets take none",
            got=f"target {target!r} and far {far}",
            hint="give a rate with the target 'far', and only with it",
        )
    curve = roc(scores, same)
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if far is not None:
        _require_enough(int((~flags).sum()), far)
    threshold = threshold_at(curve, _index(curve, target, far))
    a, b = np.asarray(first), np.asarray(second)
    accepted = values >= threshold
    return Threshold(
        threshold,
        predicted_rate(accepted[~flags], a[~flags], b[~flags]),
        predicted_rate(~accepted[flags], a[flags], b[flags]),
    )


def _index(curve: Roc, target: Target, far: float | None) -> int:
    """Return the index of the point of the curve that fits the target."""
    if far is not None:
        return index_at_far(curve, far)
    if target == "eer":
        return int(np.argmin(abs(curve.far - (1 - curve.tar))))
    return int(np.argmax(curve.tar - curve.far))


def _needed(far: float) -> int:
    """Return the least number of different pairs from which a false accept rate can be measured."""
    if not 0 < far < 1:
        raise ConfigError("a false accept rate must lie between 0 and 1", got=far)
    return math.ceil(LEAST_FALSE_ACCEPTS / far * (1 - 1e-9))


def _require_enough(different: int, far: float) -> None:
    needed = _needed(far)
    if different < needed:
        raise DataError(
            f"too few different pairs to fit a threshold at a FAR of {far:g}",
            got=different,
            allowed=f"{needed} or more, for {LEAST_FALSE_ACCEPTS} false accepts",
            hint="use more images, or a larger FAR",
        )


def fit_probability(scores: ArrayLike, same: ArrayLike) -> tuple[float, float]:
    """Return the slope and intercept that turn a score into the log-odds that a pair is the same.

    The fit is Platt's sigmoid ("Probabilistic outputs for support vector machines", 1999) with the
    smoothed targets of Lin, Lin & Weng ("A note on Platt's probabilistic outputs", Machine Learning
    2007), so that perfectly separated scores still give a finite slope. Both kinds of pairs have
    the same total weight, which means a prior of one half.

    Args:
        scores: ``[P]``, higher for more similar pairs.
        same: ``[P]`` bool, true for pairs of one class.

    Raises:
        DataError: The slope is not positive, so the scores are no better than chance.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    centre, scale = float(values.mean()), float(values.std())
    slope = 0.0
    if scale > 0:
        weights, sides = _smoothed(flags)
        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        standard = (np.concatenate([values, values]) - centre) / scale
        model.fit(standard[:, None], sides, sample_weight=weights)
        slope = float(model.coef_[0, 0]) / scale
    if slope <= 0:
        raise DataError(
            "same pairs score no higher than different ones: the embedding is no better than "
            "chance on these images",
            hint="train longer, or check the labels",
        )
    return slope, float(model.intercept_[0]) - slope * centre


def _smoothed(flags: Bools) -> tuple[Floats, Bools]:
    """Return weights ``[2 P]`` and labels ``[2 P]``: each pair as same, then each as different."""
    same = int(flags.sum())
    different = len(flags) - same
    target = np.where(flags, (same + 1) / (same + 2), 1 / (different + 2))
    # The mean weight per pair is 1, so that the solver's tolerance means the same for any data.
    weight = np.where(flags, 1 / same, 1 / different) * len(flags) / 2
    sides = np.repeat([True, False], len(flags))
    return np.concatenate([target * weight, (1 - target) * weight]), sides
