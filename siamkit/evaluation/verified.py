"""The verification of a set of images: the scored pairs, the metrics, and the intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.evaluation.bootstrap import Statistic, area, eer, identity_intervals, tar_at
from siamkit.evaluation.pairs import MOST, ImagePairs, known_pairs, pairs_of, scores
from siamkit.evaluation.verification import Roc, Verification, roc, verification
from siamkit.portable.rates import errors_at

_DRAWS = 200


@dataclass(frozen=True)
class Verified:
    """The scored pairs of a set of images.

    Attributes:
        pairs: The pairs.
        scores: ``[P]``, the cosine similarities of the pairs.
        curve: The ROC curve of the pairs.
        metrics: The verification metrics of the pairs.
        intervals: The 95 % interval of each metric, by name; empty if there are too few identities.
        notices: Notices about missing metrics and intervals.
    """

    pairs: ImagePairs
    scores: NDArray[np.float64]
    curve: Roc
    metrics: Verification
    intervals: Mapping[str, tuple[float, float]]
    notices: tuple[str, ...] = field(default=())

    def errors(self, threshold: float) -> dict[str, Any]:
        """Return accuracy, FAR and FRR at a threshold."""
        return errors_at(self.scores, self.pairs.same, threshold)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics, ``all_pairs`` and ``intervals``."""
        return {
            **self.metrics.to_json(),
            "all_pairs": self.pairs.all,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
        }


def verify_images(
    embeddings: NDArray[Any], images: ImageSet, *, most: int = MOST, seed: int = 0
) -> Verified:
    """Score the listed pairs of images, or pairs made from labels, and return the metrics.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order.
        most: The largest number of pairs made from labels. If there are more, a sample is used.
        seed: The seed of the sampled pairs and the resamples.

    Raises:
        DataError: There are no same pairs, or no different pairs.
    """
    labels = np.array(images.labels, np.int64)
    known = images.tuples
    pairs = pairs_of(labels, most=most, seed=seed) if known is None else known_pairs(known)
    values = scores(embeddings, pairs)
    metrics = verification(values, pairs.same)
    notices = [
        f"no TAR at FAR {far:g}: {metrics.different} different pairs are too few"
        for far, tar in metrics.tar_at_far.items()
        if tar is None
    ]
    statistics: dict[str, Statistic] = {
        "auc": area,
        "eer": eer,
        **{
            f"tar@far={far:g}": tar_at(far)
            for far, tar in metrics.tar_at_far.items()
            if tar is not None
        },
    }
    intervals: Mapping[str, tuple[float, float]] = {}
    try:
        intervals = identity_intervals(
            values,
            pairs.same,
            labels[pairs.first],
            labels[pairs.second],
            statistics,
            draws=_DRAWS,
            seed=seed,
        )
    except DataError as error:
        notices.append(f"no intervals for the verification metrics: {error}")
    curve = roc(values, pairs.same)
    return Verified(pairs, values, curve, metrics, intervals, tuple(notices))
