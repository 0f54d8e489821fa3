"""The summary of a set of embeddings: all metrics that ``siamkit evaluate`` prints."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamkit.data.images import ImageSet, Tuples
from siamkit.errors import DataError
from siamkit.evaluation.collapse import collapse
from siamkit.evaluation.few_shot import few_shot
from siamkit.evaluation.pairs import ImagePairs, cosines, identity_folds
from siamkit.evaluation.retrieval import chance_of, retrieval_of
from siamkit.evaluation.verification import k_fold_accuracy
from siamkit.evaluation.verified import Verified, verify_images

SHOTS = (1, 5)
_WAYS = 5

Ints = NDArray[np.int64]


def summarize(
    embeddings: NDArray[Any], images: ImageSet, *, threshold: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return all metrics of a set of images, as JSON values.

    Labelled images give retrieval (with the queries and gallery that the data states), verification
    of pairs made from labels, and few-shot accuracy. Listed pairs give verification. Listed
    triplets give verification and the accuracy of triplets. A metric is None, or missing in a list,
    if the set is too small for it. Then ``notices`` gives the reason.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        images: The images, in the same order.
        threshold: The threshold for the error rates of verification; None: no error rates.
        seed: The seed of the random pairs, folds, resamples and episodes.

    Raises:
        DataError: No query has another image of its class in the gallery.
    """
    notices: list[str] = []
    labels = np.array(images.labels, np.int64)
    tuples = images.tuples
    retrieval, triplets, shots = None, None, []
    if tuples is None and len(images.classes) < 2:
        notices.append(
            "all images are of one class, so every retrieved image is correct and the retrieval "
            "metrics say nothing about the network"
        )
    if tuples is None:
        ranked = retrieval_of(embeddings, images)
        retrieval = {**ranked.to_json(), "chance": chance_of(images)}
    elif tuples.same is None:
        triplets = _triplets(embeddings, tuples)
    if remark := collapse(embeddings):
        notices.append(remark)
    verified = None
    try:
        verified = verify_images(embeddings, images, seed=seed)
        notices += verified.notices
    except DataError as error:
        notices.append(f"no verification: {error}")
    verification = verified and {
        **verified.to_json(),
        "at_threshold": None
        if threshold is None
        else {"threshold": threshold, **verified.errors(threshold)},
        "accuracy": _accuracy(verified, images, seed, notices),
    }
    if tuples is None:
        shots = _few_shot(embeddings, labels, seed, notices)
    return {
        "images": len(images),
        "classes": len(images.classes),
        "tuples": None if tuples is None else str(tuples),
        "retrieval": retrieval,
        "verification": verification,
        "triplets": triplets,
        "few_shot": shots,
        "notices": notices,
    }


def _triplets(embeddings: NDArray[Any], tuples: Tuples) -> dict[str, Any]:
    """Return the share of triplets whose positive is nearer than the negative; ties count half."""
    anchor, positive, negative = (np.asarray(side, np.int64) for side in tuples.columns)
    nearer = cosines(embeddings, anchor, positive) - cosines(embeddings, anchor, negative)
    share = float((np.sign(nearer) / 2 + 0.5).mean())
    return {"count": len(tuples), "accuracy": share, "chance": 0.5}


def _accuracy(
    verified: Verified, images: ImageSet, seed: int, notices: list[str]
) -> dict[str, Any] | None:
    """Return k-fold accuracy: on the data's own folds (as in LFW), else on folds of identities."""
    pairs = verified.pairs
    if images.tuples is not None and images.tuples.folds is not None:
        rows, folds = np.arange(len(verified.scores)), np.asarray(images.tuples.folds)
    else:
        units = np.array(images.labels, np.int64)
        if images.tuples is not None:
            parts = _parts(len(images), pairs)
            units = units if parts is None else parts
        rows, folds = _balanced_folds(pairs, units, seed)
    return _k_fold(verified.scores[rows], pairs.same[rows], folds[rows], notices)


def _parts(count: int, pairs: ImagePairs) -> Ints | None:
    """Return the number ``[N]`` of each image's connected component over all pairs.

    Both images of a pair are in one component, so folds of whole components keep every pair.

    Returns:
        The numbers; None if there are fewer than four components, so that identities must be used.
    """
    ends = (np.ones(len(pairs.first)), (pairs.first, pairs.second))
    parts, of_image = connected_components(coo_array(ends, shape=(count, count)), directed=False)
    return of_image if parts >= 4 else None


def _balanced_folds(pairs: ImagePairs, labels: Ints, seed: int) -> tuple[Any, Any]:
    """Return the pairs to use and the fold of every pair.

    The pairs to use, by index, are as many same as different pairs in each fold. Surplus pairs are
    left out at random.
    """
    folds = identity_folds(labels, pairs, seed=seed)
    rng = np.random.default_rng(seed)
    chosen: list[Any] = []
    for fold in range(int(folds.max()) + 1):
        same = np.flatnonzero((folds == fold) & pairs.same)
        different = np.flatnonzero((folds == fold) & ~pairs.same)
        size = min(len(same), len(different))
        chosen += [rng.permutation(same)[:size], rng.permutation(different)[:size]]
    return np.concatenate(chosen or [np.empty(0, np.int64)]), folds


def _k_fold(values: Any, same: Any, folds: Any, notices: list[str]) -> dict[str, Any] | None:
    """Return k-fold accuracy, where the threshold of each fold is chosen on the other folds."""
    if len(np.unique(folds)) < 2:
        notices.append("no k-fold accuracy: it needs two folds with same and different pairs")
        return None
    try:
        accuracy = k_fold_accuracy(values, same, folds)
    except DataError as error:
        notices.append(f"no k-fold accuracy: {error}")
        return None
    return {
        "mean": accuracy.mean,
        "standard_error": accuracy.standard_error,
        "folds": len(accuracy.accuracies),
        "pairs": len(values),
    }


def _few_shot(
    embeddings: NDArray[Any], labels: Ints, seed: int, notices: list[str]
) -> list[dict[str, Any]]:
    rows = []
    for shots in SHOTS:
        try:
            result = few_shot(embeddings, labels, ways=_WAYS, shots=shots, seed=seed)
        except DataError as error:
            notices.append(str(error))
            continue
        rows.append(result.to_json())
    return rows
