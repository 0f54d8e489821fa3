"""The few-shot metric: classification by the nearest class mean (Snell et al., NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamkit.errors import DataError
from siamkit.portable.cosine import cosine, directions

EPISODES = 600
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class FewShot:
    """The accuracy over episodes. Each episode classifies images of a few random classes.

    Attributes:
        accuracy: The mean accuracy over the episodes.
        margin: Half the width of the 95 % interval of ``accuracy``: 1.96 standard errors.
        ways: The number of classes per episode.
        shots: The number of labelled images per class.
        queries: The largest number of images per class to classify.
        episodes: The number of episodes.
    """

    accuracy: float
    margin: float
    ways: int
    shots: int
    queries: int
    episodes: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the chance level as ``chance``."""
        return {**asdict(self), "chance": 1 / self.ways}


def few_shot(
    embeddings: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = EPISODES,
    seed: int = 0,
) -> FewShot:
    """Classify images by cosine similarity to the mean of a few images per class.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        labels: ``[N]`` int64.
        ways: The number of classes per episode.
        shots: The number of labelled images per class.
        queries: The largest number of images per class to classify; a small class has fewer.
        episodes: The number of episodes.
        seed: The seed of the random classes and images.

    Raises:
        DataError: Fewer than ``ways`` classes have more than ``shots`` images.
    """
    vectors = directions(embeddings)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    members = [rows for rows in members if len(rows) > shots]
    if len(members) < ways:
        raise DataError(
            f"{ways}-way {shots}-shot needs {ways} classes with at least {shots + 1} images",
            got=len(members),
            hint="use fewer ways or shots",
        )
    rng = np.random.default_rng(seed)
    accuracies = []
    for _ in range(episodes):
        support, asked, target = [], [], []
        for way, name in enumerate(rng.choice(len(members), ways, replace=False)):
            rows = rng.permutation(members[name])[: shots + queries]
            support.append(rows[:shots])
            asked.append(rows[shots:])
            target.append(np.full(len(rows) - shots, way))
        means = directions(vectors[np.stack(support)].mean(axis=1))  # [ways, E]
        scores = cosine(vectors[np.concatenate(asked)] @ means.T)
        nearest = scores == scores.max(axis=1, keepdims=True)  # [Q, ways]
        own = nearest[np.arange(len(nearest)), np.concatenate(target)]
        # Of several equally near means, one would be chosen at random: the image counts by the
        # chance that this one is the mean of its class.
        accuracies.append(float((own / nearest.sum(axis=1)).mean()))
    spread = float(np.std(accuracies, ddof=1)) if episodes > 1 else float("nan")
    margin = _NORMAL_95 * spread / float(np.sqrt(episodes))
    return FewShot(float(np.mean(accuracies)), margin, ways, shots, queries, episodes)
