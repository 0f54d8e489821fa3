"""Label noise: images whose label the embedding contradicts, and how many labels are wrong.

An image's margin is the highest score of another class, less that of its own class. A margin alone
says little: a network that does not know the data well gives half of all images a positive one. But
it is known which margins wrong labels have: give every image a random wrong label, and look. There
cannot be more wrong labels than the number of large margins allows, which gives an estimate of
their share, as in Storey's estimate of the share of false null hypotheses (2002). Both together
give the expected share of wrong labels above any margin. The suspects are the images above the
lowest margin at which this share is a half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.class_scores import ClassScores

Ints = NDArray[np.int64]

PRECISION = 0.5
"""The expected share of wrong labels among the suspects, at least."""

_MOST = 0.5
"""More wrong labels cannot be estimated, since a class would mostly hold other classes."""

_BLIND = 2 / 3
"""If a network contradicts more of the labels, what it does not know looks like wrong labels."""

_REACH = 0.2
"""Margins that fewer of the random wrong labels reach are too rare for an estimate."""


@dataclass(frozen=True)
class LabelNoise:
    """Images whose label may be wrong.

    Attributes:
        suspects: The indices of the images, the most suspicious first.
        margins: ``[N]``, the margin of every image; NaN if its class has no other image.
        share: The estimated share of wrong labels among all images, if wrong labels are random. It
            is too low if labels are confused with a similar class. None if the network knows the
            data too little for an estimate; then there are no suspects.
        precision: The expected share of wrong labels among the suspects; None without suspects.
        contradicted: The share of all images with a positive margin. If it is far above ``share``,
            the network does not know the data well.
    """

    suspects: Ints
    margins: NDArray[np.float32]
    share: float | None
    precision: float | None
    contradicted: float


def label_noise(scores: ClassScores, precision: float = PRECISION) -> LabelNoise:
    """Return the images whose label may be wrong.

    Args:
        scores: The class scores of the images.
        precision: The least expected share of wrong labels among the suspects, in (0, 1].
    """
    margins = scores.other - scores.own
    known = np.flatnonzero(~np.isnan(margins) & ~np.isnan(scores.misplaced))
    none = np.empty(0, np.int64)
    contradicted = float((margins[known] > 0).mean()) if len(known) else 0.0
    if not len(known) or contradicted > _BLIND:
        return LabelNoise(none, margins, None, None, contradicted)
    order = known[np.argsort(-margins[known], kind="stable")]
    # At each margin, from the highest: the share of the images at or above it, and of wrong labels.
    values = margins[order]
    count_above = np.searchsorted(-values, -values, side="right")
    above = count_above / len(values)
    wrong = _share_above(scores.misplaced[known], values)
    share = min(_share_wrong(count_above, wrong, len(values)), _MOST)
    expected = np.minimum(share * wrong / above, 1)
    enough = np.flatnonzero((expected >= precision) & (values > 0))
    count = int(enough[-1]) + 1 if len(enough) else 0
    return LabelNoise(
        order[:count],
        margins,
        share,
        float(expected[count - 1]) if count else None,
        contradicted,
    )


def _share_wrong(count_above: NDArray[Any], wrong: NDArray[np.float64], images: int) -> float:
    """Return the estimated share of wrong labels.

    Args:
        count_above: At each margin, the number of images at or above it.
        wrong: At each margin, the share of random wrong labels at or above it.
        images: The number of images.
    """
    reached = wrong >= _REACH
    if not reached.any():
        return 0.0
    count, wrong = count_above[reached], wrong[reached]
    # Few images give an estimate by chance, so the margin is chosen by an upper bound.
    at = ((count + 1 + np.sqrt(count + 1)) / wrong).argmin()
    # One image less, because the largest margin of all is large in correct labels too.
    return float((count[at] - 1) / images / wrong[at])


def _share_above(sample: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of a sample that is at or above each of the values."""
    ordered = np.sort(sample)
    result: NDArray[np.float64] = 1 - np.searchsorted(ordered, values, side="left") / len(ordered)
    return result
