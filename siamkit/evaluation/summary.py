"""All metrics of a set of embeddings, as ``siamkit evaluate`` prints them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from siamkit.data.images import ImageSet, PairList, TripletList, Tuples
from siamkit.errors import DataError
from siamkit.evaluation.bootstrap import Statistic, area, eer, identity_intervals, tar_at
from siamkit.evaluation.few_shot import few_shot
from siamkit.evaluation.pairs import Pairs, identity_folds, known_pairs, pairs_of, scores
from siamkit.evaluation.retrieval import random_baseline, retrieval
from siamkit.evaluation.verification import errors_at, k_fold_accuracy, verification

SHOTS = (1, 5)
_WAYS = 5
_DRAWS = 200


def summarize(
    embeddings: Tensor, images: ImageSet, *, threshold: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return all metrics of a set of images, as JSON values.

    Of labelled images: retrieval (of the queries among the gallery, where the data says which),
    verification of pairs drawn from the labels, and few-shot. Of known pairs or triplets:
    verification of those. What the set is too small for is None, and ``notices`` says why.

    Args:
        embeddings: ``[N, E]``; need not be normalised.
        images: The images, in the same order.
        threshold: Where to count the errors of verification too; None for nowhere.
        seed: Of the draws of pairs, folds, resamples and episodes.

    Raises:
        DataError: No query can find one of its class.
    """
    notices: list[str] = []
    labels = torch.tensor(images.labels)
    found: dict[str, Any] = {"images": len(images), "classes": len(images.classes)}
    if (tuples := images.tuples) is not None:
        pairs = known_pairs(tuples)
        found |= {
            "tuples": str(tuples),
            "retrieval": None,
            "verification": _verification(
                embeddings,
                labels,
                pairs,
                threshold,
                seed,
                notices,
                folds=_folds(tuples),
                fold_units=_parts(len(images), pairs),
            ),
            "triplets": _triplets(embeddings, tuples) if isinstance(tuples, TripletList) else None,
            "few_shot": [],
        }
    else:
        masks = (None if r is None else torch.tensor(r) for r in (images.query, images.gallery))
        query, gallery = masks
        ranked = retrieval(embeddings, labels, query=query, gallery=gallery)
        chance = random_baseline(labels, query=query, gallery=gallery)
        pairs = pairs_of(labels, seed=seed)
        found |= {
            "tuples": None,
            "retrieval": {**ranked.to_json(), "chance": chance},
            "verification": _verification(embeddings, labels, pairs, threshold, seed, notices),
            "triplets": None,
            "few_shot": _few_shot(embeddings, labels, seed, notices),
        }
    return {**found, "notices": notices}


def _folds(tuples: Tuples) -> Any:
    """Return the folds that the data gives, as LFW's does."""
    if not isinstance(tuples, PairList) or tuples.folds is None:
        return None
    return np.asarray(tuples.folds)


def _parts(count: int, pairs: Pairs) -> Tensor | None:
    """Return which images pairs connect, so that no pair need be left out between two folds.

    None where that leaves fewer than four parts: identities then part the folds.
    """
    ends = (np.ones(len(pairs.first)), (pairs.first, pairs.second))
    parts, of_image = connected_components(coo_array(ends, shape=(count, count)), directed=False)
    return torch.from_numpy(of_image) if parts >= 4 else None


def _triplets(embeddings: Tensor, tuples: TripletList) -> dict[str, Any]:
    """Return the share of triplets whose positive is nearer than their negative."""
    anchor, positive, negative = (
        F.normalize(embeddings[list(side)].float(), dim=-1)
        for side in (tuples.anchor, tuples.positive, tuples.negative)
    )
    nearer = (anchor * positive).sum(1) > (anchor * negative).sum(1)
    return {"count": len(tuples), "accuracy": float(nearer.float().mean()), "chance": 0.5}


def _verification(
    embeddings: Tensor,
    labels: Tensor,
    pairs: Pairs,
    threshold: float | None,
    seed: int,
    notices: list[str],
    *,
    folds: Any = None,
    fold_units: Tensor | None = None,
) -> dict[str, Any] | None:
    """Return verification metrics.

    Args:
        embeddings: ``[N, E]``
        labels: ``[N]``, the identity of each image.
        pairs: The pairs.
        threshold: Where to count errors; None for nowhere.
        seed: Of the draws.
        notices: Is told what is missing.
        folds: ``[P]``, where the data has folds of its own.
        fold_units: ``[N]``, what must not be in two folds; None for the identities.
    """
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
    if folds is None:
        rows, folds = _balanced_folds(pairs, labels if fold_units is None else fold_units, seed)
    else:
        rows = np.arange(len(values))
    return {
        **found.to_json(),
        "all_pairs": pairs.all,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "at_threshold": None
        if threshold is None
        else {"threshold": threshold, **errors_at(values, pairs.same, threshold)},
        "accuracy": _accuracy(values[rows], pairs.same[rows], folds[rows], notices),
    }


def _balanced_folds(pairs: Pairs, labels: Tensor, seed: int) -> tuple[Any, Any]:
    """Return pairs by number, as many of each kind in each fold as in LFW, and everyone's fold."""
    folds = identity_folds(labels, pairs, seed=seed)
    rng = np.random.default_rng(seed)
    chosen: list[Any] = []
    for fold in range(int(folds.max()) + 1):
        same = np.flatnonzero((folds == fold) & pairs.same)
        different = np.flatnonzero((folds == fold) & ~pairs.same)
        size = min(len(same), len(different))
        chosen += [rng.permutation(same)[:size], rng.permutation(different)[:size]]
    return np.concatenate(chosen or [np.empty(0, np.int64)]), folds


def _accuracy(values: Any, same: Any, folds: Any, notices: list[str]) -> dict[str, Any] | None:
    """Return k-fold accuracy, the threshold chosen on the other folds."""
    if len(np.unique(folds)) < 2:
        notices.append("no k-fold accuracy: two folds with same and different pairs are needed")
        return None
    try:
        found = k_fold_accuracy(values, same, folds)
    except DataError as error:
        notices.append(f"no k-fold accuracy: {error}")
        return None
    return {
        "mean": found.mean,
        "standard_error": found.standard_error,
        "folds": len(found.accuracies),
        "pairs": len(values),
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
