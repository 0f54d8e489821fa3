"""Suspicion: what an embedding says against the labels and the images of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.evaluation.class_scores import class_scores
from siamkit.evaluation.class_structure import Alike, Divided, alike, divided
from siamkit.evaluation.label_noise import LabelNoise, label_noise
from siamkit.evaluation.near_duplicates import Twins, near_duplicates
from siamkit.evaluation.second_opinion import cleanlab_suspects, has_cleanlab
from siamkit.portable.cosine import cosine, directions

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Suspicion:
    """What an embedding says against a data set.

    Attributes:
        noise: The suspicious labels; None if the images have no labels, or only one class.
        suggested: ``[N]``, the class that each image looks most like, other than its own.
        agrees: ``[N]``, whether cleanlab suspects each label too; None if it was not asked.
        twins: The near duplicates.
        limit: The similarity from which images are near duplicates.
        alike: Pairs of classes that look like one.
        divided: Classes that look like two.
    """

    noise: LabelNoise | None
    suggested: Ints
    agrees: NDArray[np.bool_] | None
    twins: list[Twins]
    limit: float
    alike: list[Alike]
    divided: list[Divided]


def suspicion(
    embeddings: NDArray[Any], labels: Ints, num_classes: int, limit: float, *, labelled: bool
) -> Suspicion:
    """Return what an embedding says against a data set.

    Args:
        embeddings: ``[N, E]`` with N >= 2, normalised or not.
        labels: ``[N]``, in 0..C-1; each class has an image.
        num_classes: C.
        limit: The similarity from which images are near duplicates; see :func:`.limit_of`.
        labelled: Whether the labels are classes. If not, only near duplicates are looked for.
    """
    twins = near_duplicates(embeddings, limit)
    if not labelled or num_classes < 2:
        return Suspicion(None, np.full(len(labels), -1), None, twins, limit, [], [])
    scores = class_scores(embeddings, labels, num_classes)
    pairs = alike(scores, labels, num_classes)
    one = {label for pair in pairs for label in (pair.first, pair.second)}
    # Half of a class under another name would make it look divided too.
    two = [d for d in divided(embeddings, labels, scores, num_classes) if d.label not in one]
    agrees = cleanlab_suspects(embeddings, labels, num_classes) if has_cleanlab() else None
    return Suspicion(
        label_noise(scores),
        scores.suggested,
        agrees,
        twins,
        limit,
        pairs,
        two,
    )


def nearest_of_class(
    embeddings: NDArray[Any], labels: Ints, image: int, label: int, most: int
) -> list[tuple[int, float]]:
    """Return the other images of a class that are nearest to an image, and their scores.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]``, the class of each image.
        image: The index of the image.
        label: The class.
        most: The largest number of images.
    """
    members = np.flatnonzero(labels == label)
    members = members[members != image]
    vectors = directions(embeddings[np.append(members, image)])
    scores = cosine(vectors[:-1] @ vectors[-1])
    order = np.argsort(-scores, kind="stable")[:most]
    return [(int(members[i]), float(scores[i])) for i in order]
