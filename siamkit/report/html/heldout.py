"""The held-out images as the page shows them: the figures of evaluation, and which images to show.

No image is opened here, and no figure is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from siamkit.errors import DataError
from siamkit.evaluation.calibration import Calibration
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
from siamkit.runs.held_out import HeldOut

IMAGES = 10_000
SHOWN_PAIRS = 12
NEIGHBOURS = 6
QUERIES = (6, 6)
_SEED = 0  # as in 'siamkit evaluate', so that both say the same


@dataclass(frozen=True)
class Decision:
    """The threshold that the page shows, and the errors at it.

    Attributes:
        threshold: The score from which on a pair counts as same.
        source: Where it comes from, in a few words.
        calibration: The run's calibration; None without one.
        far: The share of different pairs here that it accepts.
        frr: The share of same pairs here that it rejects.
    """

    threshold: float
    source: str
    calibration: Calibration | None
    far: float
    frr: float


@dataclass(frozen=True)
class HeldOutFacts:
    """What the held-out embeddings say.

    Attributes:
        held: The images to choose from, and their embeddings; a draw where there are very many.
        total: How many images there are in all; the figures are of all of them.
        labels: ``[N]``
        near: Their neighbours; None with fewer than two images.
        retrieval: Retrieval metrics; None where no query can find one of its class, or where it is
            pairs or triplets that are known.
        right: Queries whose nearest image is of their class; none where it is pairs or triplets
            that are known, not classes.
        wrong: Queries whose nearest image is not.
        verified: Scored pairs; None where there are not two kinds of them.
        decision: The threshold, and the errors at it; None without scored pairs.
        accepts: The different pairs of the highest scores.
        rejects: The same pairs of the lowest scores.
        notices: What is missing or was drawn, and why.
    """

    held: HeldOut
    total: int
    labels: NDArray[np.int64]
    near: Neighbourhood | None
    retrieval: Retrieval | None = None
    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    verified: Verified | None = None
    decision: Decision | None = None
    accepts: list[ScoredPair] = field(default_factory=list)
    rejects: list[ScoredPair] = field(default_factory=list)
    notices: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """Return the name of an image's class, or its own where classes are not known."""
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
    """Return what held-out embeddings say.

    Args:
        whole: The images and their embeddings.
        calibration: The run's calibration; None without one.
        most_images: Images are shown from a draw of larger sets.
        most_pairs: Pairs are drawn from more.
    """
    notices: list[str] = []
    total = len(whole.images)
    held = _drawn(whole, most_images)
    if len(held.images) < total:
        notices.append(f"images are shown from a random draw of {len(held.images)} (fixed seed)")
    labels = torch.tensor(held.images.labels, dtype=torch.int64)
    names = labels.numpy()
    if len(labels) < 2:
        return HeldOutFacts(held, total, names, None, notices=("there are fewer than two images",))
    query, gallery = roles_of(held.images)
    near = neighbourhood(held.embeddings, labels, NEIGHBOURS, query=query, gallery=gallery)
    known = held.images.tuples is not None
    retrieval, verified, decision = None, None, None
    if known:
        # Two images of one identity need not be in a pair that says so: no neighbour is wrong.
        nobody = np.zeros(len(names), bool)
        near = replace(near, findable=nobody, right=nobody)
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
        pass  # the page says which pairs it takes
    if known and verified is not None:
        accepts, rejects = hardest_known(verified, SHOWN_PAIRS)
    else:
        accepts = hardest(
            near.closest_other, near.closest_other_score, names, SHOWN_PAIRS, highest=True
        )
        rejects = hardest(
            near.farthest_same, near.farthest_same_score, names, SHOWN_PAIRS, highest=False
        )
    return HeldOutFacts(
        held=held,
        total=total,
        labels=names,
        near=near,
        retrieval=retrieval,
        right=right,
        wrong=wrong,
        verified=verified,
        decision=decision,
        accepts=accepts,
        rejects=rejects,
        notices=tuple(notices),
    )


def _drawn(held: HeldOut, most: int) -> HeldOut:
    """Return at most ``most`` of the images, in their order; all where pairs are known."""
    if len(held.images) <= most or held.images.tuples is not None:
        return held
    rng = np.random.default_rng(_SEED)
    kept = np.sort(rng.permutation(len(held.images))[:most])
    images = held.images.subset(kept.tolist())
    return HeldOut(held.part, images, held.embeddings[torch.from_numpy(kept)], held.epoch)


def _decision(verified: Verified, calibration: Calibration | None) -> Decision:
    if calibration is not None:
        threshold, source = calibration.threshold, "calibration.json"
    else:
        threshold = verified.metrics.eer_threshold
        source = "the equal error rate of these very pairs, as the run has no threshold of its own"
    errors = verified.errors(threshold)
    return Decision(threshold, source, calibration, errors["far"], errors["frr"])
