"""The second opinion of cleanlab on labels, if cleanlab is installed.

Confident learning: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in
Dataset Labels" (JAIR 2021).
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.class_scores import score_blocks

Ints = NDArray[np.int64]

_TEMPERATURE = 0.05
_MOST = 200_000_000
"""The most probabilities, images times classes, that are held in memory: 800 MB."""


def has_cleanlab() -> bool:
    """Return whether cleanlab is installed."""
    return find_spec("cleanlab") is not None


def cleanlab_suspects(
    embeddings: NDArray[Any], labels: Ints, num_classes: int
) -> NDArray[np.bool_] | None:
    """Return which labels cleanlab takes to be wrong; None if there are too many probabilities.

    The probability of a class comes from its score (:mod:`.class_scores`), which leaves the image
    itself out, so it is out of sample as cleanlab asks.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]``, in 0..C-1; each class has an image.
        num_classes: C.
    """
    if len(labels) * num_classes > _MOST:
        return None
    from cleanlab.filter import find_label_issues

    probabilities = np.empty((len(labels), num_classes), np.float32)
    for rows, scores in score_blocks(embeddings, labels, num_classes):
        # The only image of a class has no score for it: it counts as a distant one.
        logits = np.where(np.isneginf(scores), -1, scores) / _TEMPERATURE
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities[rows] = weights / weights.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        # It warns of each class with few images. They are suspected by siamkit's own rule alone.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
        found: NDArray[np.bool_] = find_label_issues(
            labels, probabilities, filter_by="both", n_jobs=1, verbose=False
        )
    return found
