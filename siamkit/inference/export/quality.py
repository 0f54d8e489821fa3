"""Quality: what an exported network is worth, in the metrics of siamkit evaluate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.evaluation.pairs import known_pairs, pairs_of, scores
from siamkit.evaluation.retrieval import retrieval_of
from siamkit.evaluation.verification import verification
from siamkit.portable.rates import errors_at

Metrics = dict[str, float | None]

RETRIEVAL, MAP, EER, AUC, FAR = "recall@1", "map@r", "eer", "auc", "far"
"""The names of the metrics; ``far`` is the false accept rate at the stored threshold."""


def metrics_of(
    embeddings: NDArray[np.float32], images: ImageSet, threshold: float | None
) -> Metrics:
    """Return the metrics of a network's embeddings of held-out images.

    Labelled images give ``recall@1`` and ``map@r``, listed pairs and triplets ``auc``; both give
    ``eer`` and ``far``. A metric is None if the images do not allow it.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order.
        threshold: The threshold for ``far``; None without one.
    """
    found: Metrics = {}
    if images.tuples is None:
        try:
            ranked = retrieval_of(embeddings, images, ks=(1,))
            found = {RETRIEVAL: ranked.recall[1], MAP: ranked.map_at_r}
        except DataError:  # every class has one image
            found = {RETRIEVAL: None, MAP: None}
        pairs = pairs_of(np.array(images.labels, np.int64))
    else:
        pairs = known_pairs(images.tuples)
    values = scores(embeddings, pairs)
    try:
        verified = verification(values, pairs.same, fars=())
    except DataError:  # one kind of pairs is missing
        return {**found, EER: None, FAR: None}
    if images.tuples is not None:
        found = {AUC: verified.auc}
    far = None if threshold is None else errors_at(values, pairs.same, threshold)["far"]
    return {**found, EER: verified.eer, FAR: far}


def lost(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> float:
    """Return the largest loss of a metric: a fall of recall@1, MAP@R or AUC, or a rise of the EER.

    Args:
        before: The metrics of the float32 network.
        after: The metrics of the other one.
    """
    signs = {RETRIEVAL: 1, MAP: 1, AUC: 1, EER: -1}
    falls = [
        sign * (one - other)
        for name, sign in signs.items()
        if (one := before.get(name)) is not None and (other := after.get(name)) is not None
    ]
    return max(falls, default=0.0)
