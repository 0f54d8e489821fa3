"""What the held-out embeddings say: verification, neighbours, a map. No image is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.errors import DataError
from siamkit.evaluation.bootstrap import Statistic, area, eer, identity_intervals, tar_at
from siamkit.evaluation.pairs import MOST, Pairs, known_pairs, pairs_of, scores
from siamkit.evaluation.verification import Roc, Verification, roc, verification
from siamkit.report.html.neighbours import Neighbours, Pair, gallery_queries, hardest, neighbours
from siamkit.runs.held_out import HeldOut

IMAGES = 10_000
SHOWN_PAIRS = 12
NEIGHBOURS = 6
QUERIES = (6, 6)
# As in 'siamkit evaluate', so that both say the same.
_DRAWS = 200
_SEED = 0


@dataclass(frozen=True)
class Threshold:
    """Where same and different part.

    Attributes:
        value: The score from which on a pair counts as same.
        source: Where it comes from, in a few words.
        calibration: The content of ``calibration.json``; empty without one.
        far: The share of different pairs here that it accepts.
        frr: The share of same pairs here that it rejects.
    """

    value: float
    source: str
    calibration: Mapping[str, Any]
    far: float
    frr: float


@dataclass(frozen=True)
class Verified:
    """Scored pairs.

    Attributes:
        pairs: The pairs.
        scores: ``[P]``
        curve: Their ROC.
        metrics: Their metrics.
        intervals: 95 % intervals of them, by name.
        threshold: Where same and different part.
    """

    pairs: Pairs
    scores: NDArray[np.float64]
    curve: Roc
    metrics: Verification
    intervals: Mapping[str, tuple[float, float]]
    threshold: Threshold


@dataclass(frozen=True)
class HeldOutFacts:
    """What the held-out embeddings say.

    Attributes:
        held: The images that were looked at, and their embeddings.
        total: How many images there are in all.
        labels: ``[N]``
        near: Their neighbours; None with fewer than two images.
        right: Queries whose nearest image is of their class; none where it is pairs or triplets
            that are known, not classes.
        wrong: Queries whose nearest image is not.
        verified: Scored pairs; None where there are not two kinds of them.
        accepts: The different pairs of the highest scores.
        rejects: The same pairs of the lowest scores.
        notices: What is missing or was drawn, and why.
    """

    held: HeldOut
    total: int
    labels: NDArray[np.int64]
    near: Neighbours | None
    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    verified: Verified | None = None
    accepts: list[Pair] = field(default_factory=list)
    rejects: list[Pair] = field(default_factory=list)
    notices: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """Return the name of an image's class, or its own where classes are not known."""
        if self.held.images.tuples is not None:
            return self.held.images.samples[index].key
        return self.held.images.classes[int(self.labels[index])]


def held_out_facts(
    held: HeldOut,
    calibration: Mapping[str, Any],
    *,
    most_images: int = IMAGES,
    most_pairs: int = MOST,
) -> HeldOutFacts:
    """Return what ``held`` says.

    Args:
        held: The images and their embeddings.
        calibration: The content of ``calibration.json``; empty without one.
        most_images: Larger sets are drawn from.
        most_pairs: So are pairs.
    """
    notices: list[str] = []
    total = len(held.images)
    held = _drawn(held, most_images)
    if len(held.images) < total:
        notices.append(f"drawn at random from {total} (fixed seed)")
    labels = torch.tensor(held.images.labels, dtype=torch.int64)
    names = labels.numpy()
    if len(labels) < 2:
        return HeldOutFacts(held, total, names, None, notices=("there are fewer than two images",))
    near = neighbours(held.embeddings, labels, NEIGHBOURS)
    known = held.images.tuples is not None
    if known:
        # Two images of one identity need not be in a pair that says so: no neighbour is wrong.
        nobody = np.zeros(len(names), bool)
        near = replace(near, findable=nobody, right=nobody)
    right, wrong = gallery_queries(near, *QUERIES, seed=_SEED)
    verified = None
    try:
        verified = _verified(held, labels, calibration, most_pairs)
    except DataError:
        pass  # the page says which pairs it takes
    if known and verified is not None:
        accepts, rejects = _hardest_known(verified, SHOWN_PAIRS)
    else:
        accepts = hardest(
            near.closest_other, near.closest_other_score, names, SHOWN_PAIRS, highest=True
        )
        rejects = hardest(
            near.farthest_same, near.farthest_same_score, names, SHOWN_PAIRS, highest=False
        )
    return HeldOutFacts(
        held,
        total,
        names,
        near,
        right,
        wrong,
        verified,
        accepts,
        rejects,
        tuple(notices),
    )


def _hardest_known(verified: Verified, most: int) -> tuple[list[Pair], list[Pair]]:
    """Return the known different pairs of the highest scores, and same ones of the lowest."""
    pairs, values = verified.pairs, verified.scores
    order = np.argsort(values, kind="stable")
    different, same = order[~pairs.same[order]][::-1][:most], order[pairs.same[order]][:most]
    accepts, rejects = (
        [Pair(int(pairs.first[i]), int(pairs.second[i]), float(values[i])) for i in chosen]
        for chosen in (different, same)
    )
    return accepts, rejects


def _drawn(held: HeldOut, most: int) -> HeldOut:
    """Return at most ``most`` of the images, in their order; all where pairs are known."""
    if len(held.images) <= most or held.images.tuples is not None:
        return held
    rng = np.random.default_rng(_SEED)
    kept = np.sort(rng.permutation(len(held.images))[:most])
    images = held.images.subset(kept.tolist())
    return HeldOut(held.part, images, held.embeddings[torch.from_numpy(kept)], held.epoch)


def _verified(held: HeldOut, labels: Tensor, calibration: Mapping[str, Any], most: int) -> Verified:
    tuples = held.images.tuples
    if tuples is None:
        pairs = pairs_of(labels, most=most, seed=_SEED)
    else:
        pairs = known_pairs(tuples)
    values = scores(held.embeddings, pairs)
    metrics = verification(values, pairs.same)
    statistics: dict[str, Statistic] = {
        "auc": area,
        "eer": eer,
        **{f"tar@far={f:g}": tar_at(f) for f, tar in metrics.tar_at_far.items() if tar is not None},
    }
    names = labels.numpy()
    try:
        intervals = identity_intervals(
            values, names[pairs.first], names[pairs.second], statistics, draws=_DRAWS, seed=_SEED
        )
    except DataError:  # too few identities to resample: the figures stand alone
        intervals = {}
    curve = roc(values, pairs.same)
    return Verified(
        pairs, values, curve, metrics, intervals, _threshold(metrics, values, pairs, calibration)
    )


def _threshold(
    metrics: Verification,
    values: NDArray[np.float64],
    pairs: Pairs,
    calibration: Mapping[str, Any],
) -> Threshold:
    value, source = calibration.get("threshold"), "calibration.json"
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        value = metrics.eer_threshold
        source = "the equal error rate of these very pairs, as the run has no calibration.json"
        calibration = {}
    accepted = values >= value
    return Threshold(
        float(value),
        source,
        calibration,
        float(accepted[~pairs.same].mean()),
        float((~accepted[pairs.same]).mean()),
    )
