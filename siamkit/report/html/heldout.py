"""The facts about the held-out images: the results of evaluation, and the images to show.

This module opens no image and computes no metric.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from siamkit.errors import DataError
from siamkit.evaluation.confusions import Confusion, confusions
from siamkit.evaluation.neighbourhood import (
    Neighbourhood,
    ScoredPair,
    gallery_queries,
    hardest,
    hardest_known,
    neighbourhood,
)
from siamkit.evaluation.pairs import MOST
from siamkit.evaluation.retrieval import Retrieval, retrieval_of, roles_of
from siamkit.evaluation.verified import Verified, verify_images
from siamkit.portable.calibration import Calibration
from siamkit.runs.held_out import HeldOut

IMAGES = 10_000
SHOWN_PAIRS = 12
CONFUSED = 12
NEIGHBOURS = 6
QUERIES = (6, 6)
_SEED = 0  # as in 'siamkit evaluate', so that both show the same values


@dataclass(frozen=True)
class Decision:
    """The threshold that the page shows, and the errors at it.

    Attributes:
        threshold: The lowest score at which a pair counts as same.
        source: The origin of the threshold, as a short text.
        calibration: The run's calibration; None without one.
        far: The share of different held-out pairs that the threshold accepts.
        frr: The share of same held-out pairs that the threshold rejects.
    """

    threshold: float
    source: str
    calibration: Calibration | None
    far: float
    frr: float


@dataclass(frozen=True)
class HeldOutFacts:
    """The facts about the held-out embeddings.

    Attributes:
        held: The images that the page may show, with their embeddings; of a very large set, a
            random sample.
        total: The number of all held-out images; the metrics use all of them.
        labels: The class indices ``[N]`` of the images in ``held``.
        near: The neighbours of the images in ``held``; None if there are fewer than two images.
        retrieval: Retrieval metrics; None if no query has another image of its class, or if the
            data lists pairs or triplets.
        right: Queries whose nearest image is of their class; empty if the data lists pairs or
            triplets instead of classes.
        wrong: Queries whose nearest image is of another class.
        confused: The pairs of classes that are confused most often; empty if the data lists pairs
            or triplets.
        verified: Scored pairs; None without both same and different pairs.
        decision: The threshold, and the errors at it; None without scored pairs.
        accepts: The different pairs with the highest scores.
        rejects: The same pairs with the lowest scores.
        notices: Notices about missing or sampled parts.
    """

    held: HeldOut
    total: int
    labels: NDArray[np.int64]
    near: Neighbourhood | None
    retrieval: Retrieval | None = None
    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    confused: list[Confusion] = field(default_factory=list)
    verified: Verified | None = None
    decision: Decision | None = None
    accepts: list[ScoredPair] = field(default_factory=list)
    rejects: list[ScoredPair] = field(default_factory=list)
    notices: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """Return the name of an image's class, or its own name if the data has no classes."""
        if self.held.images.tuples is not None:
            return self.held.images.samples[index].key
        return self.held.images.classes[int(self.labels[index])]


def held_out_facts(
    whole: HeldOut,
    calibration: Calibration | None,
    *,
    most_images: int = IMAGES,
    most_pairs: int = MOST,
) -> HeldOutFacts:
    """Return the facts about held-out embeddings.

    Args:
        whole: The images and their embeddings.
        calibration: The run's calibration; None without one.
        most_images: The largest number of images to choose from; larger sets are sampled.
        most_pairs: The largest number of pairs to score; of more pairs, a sample is scored.
    """
    notices: list[str] = []
    total = len(whole.images)
    held = _drawn(whole, most_images)
    if len(held.images) < total:
        notices.append(
            f"To keep the page small, it shows images from a random sample of {len(held.images)} "
            "(fixed seed)."
        )
    labels = np.array(held.images.labels, np.int64)
    if len(labels) < 2:
        return HeldOutFacts(
            held, total, labels, None, notices=("There are fewer than two images.",)
        )
    query, gallery = roles_of(held.images)
    near = neighbourhood(held.embeddings, labels, NEIGHBOURS, query=query, gallery=gallery)
    known = held.images.tuples is not None
    retrieval, verified, decision = None, None, None
    if known:
        # Two images of one identity may be in no pair, so no neighbour is known to be wrong.
        none = np.zeros(len(labels), bool)
        near = replace(near, findable=none, right=none.astype(np.float32))
    else:
        try:
            retrieval = retrieval_of(whole.embeddings, whole.images)
        except DataError:
            pass  # the page says that there are too few images
    right, wrong = gallery_queries(near, *QUERIES, seed=_SEED)
    try:
        verified = verify_images(whole.embeddings, whole.images, most=most_pairs, seed=_SEED)
        decision = _decision(verified, calibration)
    except DataError:
        pass  # the page says which pairs are needed
    if known and verified is not None:
        accepts, rejects = hardest_known(verified, SHOWN_PAIRS)
    else:
        accepts = hardest(
            near.closest_other, near.closest_other_score, labels, SHOWN_PAIRS, highest=True
        )
        rejects = hardest(
            near.farthest_same, near.farthest_same_score, labels, SHOWN_PAIRS, highest=False
        )
    return HeldOutFacts(
        held=held,
        total=total,
        labels=labels,
        near=near,
        retrieval=retrieval,
        right=right,
        wrong=wrong,
        confused=confusions(near, labels, CONFUSED),
        verified=verified,
        decision=decision,
        accepts=accepts,
        rejects=rejects,
        notices=tuple(notices),
    )


def _drawn(held: HeldOut, most: int) -> HeldOut:
    """Return at most ``most`` of the images, in their order; all if the data lists pairs."""
    if len(held.images) <= most or held.images.tuples is not None:
        return held
    rng = np.random.default_rng(_SEED)
    kept = np.sort(rng.permutation(len(held.images))[:most])
    images = held.images.subset(kept.tolist())
    return replace(held, images=images, embeddings=held.embeddings[kept])


def _decision(verified: Verified, calibration: Calibration | None) -> Decision:
    if calibration is not None:
        threshold, source = calibration.threshold, "the run's own (calibration.json)"
    else:
        threshold = verified.metrics.eer_threshold
        source = "at the equal error rate of these pairs, since the run has no threshold of its own"
    errors = verified.errors(threshold)
    return Decision(threshold, source, calibration, errors["far"], errors["frr"])
