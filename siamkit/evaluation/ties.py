"""The metrics of a ranking with ties: the expected values over all orders of equal scores.

Training, evaluation and reports all follow this rule: equal scores say nothing about an order, so
each order is equally likely (McSherry and Najork, "Computing information retrieval performance
measures efficiently in the presence of tied scores", ECIR 2008). A ranking without ties has the
usual metrics. A ranking whose scores are all equal has the metrics of a random ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RANK_BYTES = 160
"""The memory that :func:`expected` needs per rank, at most."""


def expected(
    scores: Tensor,
    hits: Tensor,
    r: Tensor,
    ks: Sequence[int],
    whole: Callable[[int], tuple[int, int]] | None = None,
) -> Tensor:
    """Return the sums over rankings of the expected metrics ``[len(ks) + 2]``, float64.

    They are recall@k for each k, average precision at R and R-precision. They differ
    from the usual metrics only where a group of equal scores holds hits and other images.

    Args:
        scores: ``[Q, D]``, descending; D is more than R and the largest k, or all images.
        hits: ``[Q, D]`` bool, true for images of the query's class.
        r: ``[Q]``, the number of images of the query's class.
        ks: The k of recall@k.
        whole: Returns, for a ranking's row, the number of images and of hits in its last group of
            equal scores, which may go on after rank D. None if no group goes on.
    """
    rank = torch.arange(1, scores.shape[1] + 1)
    counted = hits.cumsum(1, dtype=torch.int32)
    right = hits & (rank <= r[:, None])
    gains = (counted / rank.double()).mul_(right)
    average, found = gains.sum(1), right.sum(1).double()
    no_hit = (~hits[:, : max(ks)]).double()  # probability, given no hit at a rank before

    limit = r.clamp(min=max(ks))
    at, before, hits_before, size, group_hits = _mixed(scores, hits, counted, limit, whole)
    row, place = at  # both from 0
    inside = place < r[row]
    position = place - before  # in the group, from 0
    share = group_hits / size.double() * inside
    # Given a hit at this rank, the group's other size - 1 ranks hold hits - 1 hits.
    others = position * (group_hits - 1) / (size - 1).double()
    precision = (hits_before + 1 + others) / (place + 1)
    average.index_add_(0, row, share * precision - gains[at])
    found.index_add_(0, row, share - right[at].double())
    early = place < no_hit.shape[1]
    left = (size - position)[early]
    missed = (left - group_hits[early]).clamp(min=0) / left.double()
    no_hit[row[early], place[early]] = missed
    recalls = [(1 - no_hit[:, :k].prod(1)).sum() for k in ks]
    return torch.stack([*recalls, (average / r).sum(), (found / r).sum()])


def _mixed(
    scores: Tensor,
    hits: Tensor,
    counted: Tensor,
    limit: Tensor,
    whole: Callable[[int], tuple[int, int]] | None,
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Return the ranks in groups of equal scores that hold both hits and other images.

    Args:
        scores: ``[Q, D]``, descending.
        hits: ``[Q, D]`` bool, true for images of the query's class.
        counted: ``[Q, D]``, the hits up to each rank.
        limit: ``[Q]``, the number of ranks that matter.
        whole: The sizes of a ranking's last group; see :func:`expected`.

    Returns:
        For each of these ranks: the ranking and the rank, from 0; the number of images and of hits
        before its group; and the number of images and of hits in its group.
    """
    equal = scores[:, 1:] == scores[:, :-1]
    begins, member = torch.ones_like(hits), torch.zeros_like(hits)
    begins[:, 1:] = ~equal
    member[:, 1:] = equal
    member[:, :-1] |= equal
    row, place = at = member.nonzero(as_tuple=True)
    first = begins[at]
    group = first.cumsum(0) - 1
    start = row[first], place[first]
    size = group.bincount(minlength=len(start[0]))
    found = group[hits[at]].bincount(minlength=len(start[0]))
    matters = start[1] < limit[start[0]]
    if whole is not None:
        last = matters & (start[1] + size == scores.shape[1])
        for number in last.nonzero().flatten().tolist():
            size[number], found[number] = whole(int(start[0][number]))
    mixed = matters & (found > 0) & (found < size)
    kept = mixed[group] & (place < limit[row])
    group = group[kept]
    hits_before = counted[start] - hits[start].int()
    facts = (values[group] for values in (start[1], hits_before, size, found))
    return (row[kept], place[kept]), *facts  # type: ignore[return-value]
