"""The neighbourhood of each image: its nearest ones and its hardest pairs, by exact search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siamkit.evaluation.nearest import largest
from siamkit.evaluation.verified import Verified

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

ScoredPair = tuple[int, int, float]
"""Two images by index, and their similarity."""

_BLOCK_BYTES = 32 << 20  # of similarities at a time


@dataclass(frozen=True)
class Neighbourhood:
    """What lies around each of N images, by cosine similarity.

    Attributes:
        nearest: ``[N, K]`` indices of others in the gallery, the most similar first.
        scores: ``[N, K]`` their similarities.
        closest_other: ``[N]`` the most similar image of another class; -1 if there is none.
        closest_other_score: ``[N]``
        farthest_same: ``[N]`` the least similar image of its own class; -1 if it is alone.
        farthest_same_score: ``[N]``
        right: ``[N]`` whether the nearest image is of its class.
        query: ``[N]`` whether it is searched for.
        findable: ``[N]`` whether it is a query with another image of its class in the gallery.
    """

    nearest: Ints
    scores: Floats
    closest_other: Ints
    closest_other_score: Floats
    farthest_same: Ints
    farthest_same_score: Floats
    right: NDArray[np.bool_]
    query: NDArray[np.bool_]
    findable: NDArray[np.bool_]


def neighbourhood(
    embeddings: Tensor,
    labels: Tensor,
    k: int,
    *,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
) -> Neighbourhood:
    """Search each image among all others.

    Args:
        embeddings: ``[N, E]``, N of 2 at least; need not be normalised.
        labels: ``[N]`` int64.
        k: Neighbours of each; fewer where there are fewer images.
        query: ``[N]`` bool, which are searched for; None for all.
        gallery: ``[N]`` bool, which are searched for neighbours; None for all. Hard pairs are of
            all images, as those of verification are.
    """
    vectors = F.normalize(embeddings.detach().float().cpu(), dim=-1)
    labels = labels.cpu()
    count = len(labels)
    everyone = torch.ones(count, dtype=torch.bool)
    query, gallery = (everyone if m is None else m.cpu().bool() for m in (query, gallery))
    k = max(min(k, int(gallery.sum()) - 1), 1)
    size = max(1, _BLOCK_BYTES // (4 * count))
    parts: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(count).split(size):
        similar = vectors[rows] @ vectors.T  # [B, N]
        here = torch.arange(len(rows))
        same = labels[rows, None] == labels
        other_score, other = largest(similar.masked_fill(same, -torch.inf), 1)
        same[here, rows] = False
        same_score, far = largest((-similar).masked_fill(~same, -torch.inf), 1)
        findable = query[rows] & (same & gallery).any(1)
        similar[here, rows] = -torch.inf
        scores, nearest = largest(similar.masked_fill(~gallery, -torch.inf), k)
        parts.append(
            (
                nearest,
                scores,
                other[:, 0],
                other_score[:, 0],
                far[:, 0],
                -same_score[:, 0],
                findable,
            )
        )
    nearest, scores, other, other_score, far, same_score, findable = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return Neighbourhood(
        nearest.numpy(),
        scores.numpy(),
        torch.where(torch.isfinite(other_score), other, -1).numpy(),
        other_score.numpy(),
        torch.where(torch.isfinite(same_score), far, -1).numpy(),
        same_score.numpy(),
        (labels[nearest[:, 0]] == labels).numpy(),
        query.numpy(),
        findable.numpy(),
    )


def hardest_known(verified: Verified, most: int) -> tuple[list[ScoredPair], list[ScoredPair]]:
    """Return the known different pairs of the highest scores, and same ones of the lowest."""
    pairs, values = verified.pairs, verified.scores
    order = np.argsort(values, kind="stable")
    different, same = order[~pairs.same[order]][::-1][:most], order[pairs.same[order]][:most]
    accepts, rejects = (
        [(int(pairs.first[i]), int(pairs.second[i]), float(values[i])) for i in chosen]
        for chosen in (different, same)
    )
    return accepts, rejects


def hardest(
    partner: Ints, scores: Floats, labels: Ints, most: int, *, highest: bool
) -> list[ScoredPair]:
    """Return the hardest pairs, no two of them of the same two classes.

    Args:
        partner: ``[N]``, for each image the other one of its hardest pair; -1 for none.
        scores: ``[N]``, of these pairs.
        labels: ``[N]``
        most: How many pairs.
        highest: Whether a high score is hard (images of different classes) or a low one.
    """
    order = np.argsort(-scores if highest else scores, kind="stable")
    pairs: list[ScoredPair] = []
    seen: set[tuple[int, int]] = set()
    for index in order.tolist():
        other = int(partner[index])
        if other < 0:
            continue
        a, b = sorted((int(labels[index]), int(labels[other])))
        if (a, b) in seen:
            continue
        seen.add((a, b))
        pairs.append((min(index, other), max(index, other), float(scores[index])))
        if len(pairs) == most:
            break
    return pairs


def gallery_queries(
    near: Neighbourhood, right: int, wrong: int, seed: int
) -> tuple[list[int], list[int]]:
    """Draw queries whose nearest image is of their class, and queries whose nearest is not.

    Args:
        near: The neighbours.
        right: How many of the first kind.
        wrong: How many of the other.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    kinds = (near.findable & near.right, right), (near.findable & ~near.right, wrong)
    drawn = (rng.permutation(np.flatnonzero(of_kind))[:most] for of_kind, most in kinds)
    first, second = (sorted(int(i) for i in chosen) for chosen in drawn)
    return first, second
