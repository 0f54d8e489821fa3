"""The metrics of a ranking with ties: the expected values over all orders of equal scores.

Training, evaluation and reports all follow this rule: equal scores say nothing about an order, so
each order is equally likely (McSherry and Najork, "Computing information retrieval performance
measures efficiently in the presence of tied scores", ECIR 2008). A ranking without ties has the
usual metrics. A ranking whose scores are all equal has the metrics of a random ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """The groups of images with equal scores in Q rankings.

    All attributes have the shape ``[Q, D]`` and describe the group that each of D ranks is in.

    Attributes:
        before: The number of images before the group.
        hits_before: The number of images before the group that are of the query's class.
        size: The number of images in the group.
        hits: The number of images in the group that are of the query's class.
    """

    before: Tensor
    hits_before: Tensor
    size: Tensor
    hits: Tensor


def groups(scores: Tensor, hits: Tensor) -> Groups:
    """Return the groups of images with equal scores in rankings.

    Args:
        scores: ``[Q, D]``, descending in each row.
        hits: ``[Q, D]`` bool, true for images of the query's class.
    """
    depth = scores.shape[1]
    places = torch.arange(depth).expand(scores.shape)
    first = torch.ones_like(hits)
    first[:, 1:] = scores[:, 1:] != scores[:, :-1]
    start = torch.where(first, places, 0).cummax(1).values
    following = torch.where(first, places, depth)[:, 1:].flip(1).cummin(1).values.flip(1)
    end = torch.cat([following, torch.full((len(scores), 1), depth)], 1)
    total = torch.cat([torch.zeros(len(hits), 1, dtype=torch.int64), hits.cumsum(1)], 1)
    before = total.gather(1, start)
    return Groups(start, before, end - start, total.gather(1, end) - before)


def expected(tied: Groups, r: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the expected metrics ``[M, Q]`` of Q rankings.

    The rows are recall@k for each k, average precision at R, and R-precision.

    Args:
        tied: The groups at the ranks 1 to D. D is at least R, and at least the largest k, unless
            there are fewer images than the largest k.
        r: ``[Q]``, the number R of images of the query's class.
        ks: The k of recall@k.
    """
    rank = torch.arange(1, tied.size.shape[1] + 1, dtype=torch.float64)
    within, r = rank <= r[:, None], r.double()
    place = rank - tied.before  # the position in the group, from 1
    # The chance that the rank holds no hit, given that no earlier rank holds a hit.
    no_hit = (tied.size - tied.hits - place + 1).clamp(min=0) / (tied.size - place + 1).clamp(min=1)
    share = tied.hits / tied.size.double() * within
    # The expected hits at the group's earlier ranks, given a hit at this rank: of the group's other
    # size - 1 images, hits - 1 are hits.
    others = (place - 1) * (tied.hits - 1) / (tied.size - 1).clamp(min=1)
    precision = (tied.hits_before + 1 + others) / rank
    recalls = [1 - no_hit[:, :k].prod(1) for k in ks]
    return torch.stack([*recalls, (share * precision).sum(1) / r, share.sum(1) / r])
