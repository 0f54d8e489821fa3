"""Who is nearest to whom among held-out images: exact, in blocks, so in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_BLOCK_BYTES = 32 << 20  # of similarities at a time


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of each of N images among the others, by cosine similarity.

    Attributes:
        nearest: ``[N, K]`` indices, the most similar first.
        scores: ``[N, K]`` their similarities.
        closest_other: ``[N]`` the most similar image of another class; -1 if there is none.
        closest_other_score: ``[N]``
        farthest_same: ``[N]`` the least similar image of its own class; -1 if it is alone.
        farthest_same_score: ``[N]``
        right: ``[N]`` whether the nearest image is of its class.
        findable: ``[N]`` whether there is another image of its class.
    """

    nearest: Ints
    scores: Floats
    closest_other: Ints
    closest_other_score: Floats
    farthest_same: Ints
    farthest_same_score: Floats
    right: NDArray[np.bool_]
    findable: NDArray[np.bool_]


def neighbours(embeddings: Tensor, labels: Tensor, k: int) -> Neighbours:
    """Search each image among all others.

    Args:
        embeddings: ``[N, E]``, N of 2 at least; need not be normalised.
        labels: ``[N]`` int64.
        k: Neighbours of each; fewer where there are fewer images.
    """
    vectors = F.normalize(embeddings.detach().float().cpu(), dim=-1)
    labels = labels.cpu()
    count = len(labels)
    k = min(k, count - 1)
    size = max(1, _BLOCK_BYTES // (4 * count))
    parts: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(count).split(size):
        similar = vectors[rows] @ vectors.T  # [B, N]
        similar[torch.arange(len(rows)), rows] = -torch.inf
        scores, nearest = similar.topk(k, dim=1)
        same = labels[rows, None] == labels
        other_score, other = similar.masked_fill(same, -torch.inf).max(1)
        same[torch.arange(len(rows)), rows] = False
        same_score, far = similar.masked_fill(~same, torch.inf).min(1)
        parts.append((nearest, scores, other, other_score, far, same_score))
    nearest, scores, other, other_score, far, same_score = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    findable = torch.isfinite(same_score)
    return Neighbours(
        nearest.numpy(),
        scores.numpy(),
        torch.where(torch.isfinite(other_score), other, -1).numpy(),
        other_score.numpy(),
        torch.where(findable, far, -1).numpy(),
        same_score.numpy(),
        (labels[nearest[:, 0]] == labels).numpy(),
        findable.numpy(),
    )


@dataclass(frozen=True)
class Pair:
    """Two images and their similarity."""

    first: int
    second: int
    score: float


def hardest(partner: Ints, scores: Floats, labels: Ints, most: int, *, highest: bool) -> list[Pair]:
    """Return the hardest pairs, no two of them of the same two classes.

    Args:
        partner: ``[N]``, for each image the other one of its hardest pair; -1 for none.
        scores: ``[N]``, of these pairs.
        labels: ``[N]``
        most: How many pairs.
        highest: Whether a high score is hard (images of different classes) or a low one.
    """
    order = np.argsort(-scores if highest else scores, kind="stable")
    found: list[Pair] = []
    seen: set[tuple[int, int]] = set()
    for index in order.tolist():
        other = int(partner[index])
        if other < 0:
            continue
        a, b = sorted((int(labels[index]), int(labels[other])))
        if (a, b) in seen:
            continue
        seen.add((a, b))
        found.append(Pair(min(index, other), max(index, other), float(scores[index])))
        if len(found) == most:
            break
    return found


def gallery_queries(
    near: Neighbours, right: int, wrong: int, seed: int
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
