"""All metrics of a set of embeddings, as ``siamkit evaluate`` prints them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from siamkit.errors import DataError
from siamkit.evaluation.bootstrap import Statistic, area, eer, identity_intervals, tar_at
from siamkit.evaluation.few_shot import few_shot
from siamkit.evaluation.pairs import Pairs, identity_folds, pairs_of, scores
from siamkit.evaluation.retrieval import random_baseline, retrieval
from siamkit.evaluation.verification import k_fold_accuracy, verification

SHOTS = (1, 5)
_WAYS = 5
_DRAWS = 200


def summarize(embeddings: Tensor, labels: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """Return retrieval, verification and few-shot metrics, as JSON values.

    What the set is too small for is None, and ``notices`` says why.

    Args:
        embeddings: ``[N, E]``; need not be normalised.
        labels: ``[N]`` int64.
        seed: Of the draws of pairs, folds, resamples and episodes.

    Raises:
        DataError: No image has another one of its class.
    """
    notices: list[str] = []
    found = retrieval(embeddings, labels)
    return {
        "images": len(labels),
        "classes": len(labels.unique()),
        "retrieval": {**found.to_json(), "chance": random_baseline(labels)},
        "verification": _verification(embeddings, labels, seed, notices),
        "few_shot": _few_shot(embeddings, labels, seed, notices),
        "notices": notices,
    }


def _verification(
    embeddings: Tensor, labels: Tensor, seed: int, notices: list[str]
) -> dict[str, Any] | None:
    pairs = pairs_of(labels, seed=seed)
    values = scores(embeddings, pairs)
    try:
        found = verification(values, pairs.same)
    except DataError as error:
        notices.append(f"no verification: {error}")
        return None
    for far, tar in found.tar_at_far.items():
        if tar is None:
            notices.append(
                f"no TAR at FAR {far:g}: {found.different} different pairs are too few to tell it"
            )
    names = labels.cpu().numpy()
    statistics: dict[str, Statistic] = {
        "auc": area,
        "eer": eer,
        **{f"tar@far={far:g}": tar_at(far) for far, tar in found.tar_at_far.items() if tar},
    }
    intervals = identity_intervals(
        values, names[pairs.first], names[pairs.second], statistics, draws=_DRAWS, seed=seed
    )
    return {
        **found.to_json(),
        "all_pairs": pairs.all,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "accuracy": _accuracy(values, pairs, labels, seed, notices),
    }


def _accuracy(
    values: Any, pairs: Pairs, labels: Tensor, seed: int, notices: list[str]
) -> dict[str, Any] | None:
    """Return k-fold accuracy on as many different pairs as same ones in each fold, as in LFW."""
    folds = identity_folds(labels, pairs, seed=seed)
    rng = np.random.default_rng(seed)
    chosen: list[Any] = []
    for fold in range(int(folds.max()) + 1):
        same = np.flatnonzero((folds == fold) & pairs.same)
        different = np.flatnonzero((folds == fold) & ~pairs.same)
        size = min(len(same), len(different))
        if size:
            chosen += [rng.permutation(same)[:size], rng.permutation(different)[:size]]
    if len(chosen) < 4:
        notices.append("no k-fold accuracy: two folds with same and different pairs are needed")
        return None
    rows = np.concatenate(chosen)
    found = k_fold_accuracy(values[rows], pairs.same[rows], folds[rows])
    return {
        "mean": found.mean,
        "standard_error": found.standard_error,
        "folds": len(found.accuracies),
        "pairs": len(rows),
    }


def _few_shot(
    embeddings: Tensor, labels: Tensor, seed: int, notices: list[str]
) -> list[dict[str, Any]]:
    found = []
    for shots in SHOTS:
        try:
            result = few_shot(embeddings, labels, ways=_WAYS, shots=shots, seed=seed)
        except DataError as error:
            notices.append(str(error))
            continue
        found.append(result.to_json())
    return found
