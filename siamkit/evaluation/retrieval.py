"""Retrieval metrics on embeddings and labels."""

from __future__ import annotations

import warnings

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch import Tensor

_CALCULATOR_NAMES = {"recall@1": "precision_at_1", "map@r": "mean_average_precision_at_r"}


def retrieval_metrics(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Return recall@1 and MAP@R, each image a query against all others, by cosine similarity.

    MAP@R is that of Musgrave et al., "A Metric Learning Reality Check" (ECCV 2020). Images whose
    class has no other image are no queries.

    Args:
        embeddings: ``[N, E]``; need not be normalised.
        labels: ``[N]`` int64.
    """
    calculator = AccuracyCalculator(
        include=tuple(_CALCULATOR_NAMES.values()),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity(), batch_size=1024),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = calculator.get_accuracy(embeddings.float().cpu(), labels.cpu())
    return {ours: float(found[theirs]) for ours, theirs in _CALCULATOR_NAMES.items()}
