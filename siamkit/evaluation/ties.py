"""The metrics of a ranking with ties: the expected values over all orders of equal scores.

Training, evaluation and reports all follow this rule: equal scores say nothing about an order, so
each order is equally likely (McSherry and Najork, "Computing information retrieval performance
measures efficiently in the presence of tied scores", ECIR 2008). A ranking without ties has the
usual metrics. A ranking whose scores are all equal has the metrics of a random ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def expected(
    scores: NDArray[np.float32],
    hits: Bools,
    r: Ints,
    ks: Sequence[int],
    whole: Callable[[int], tuple[int, int]] | None = None,
) -> Floats:
    """Return the expected metrics of each ranking, ``[len(ks) + 2, Q]``.

    They are recall@k for each k, average precision at R and R-precision. They differ
    from the usual metrics only where a group of equal scores holds hits and other images.

    Args:
        scores: ``[Q, D]``, descending; D is more than R and the largest k, or all images.
        hits: ``[Q, D]``, true for images of the query's class.
        r: ``[Q]``, the number of images of the query's class.
        ks: The k of recall@k.
        whole: Returns, for a ranking's row, the number of images and of hits in its last group of
            equal scores, which may go on after rank D. None if no group goes on.
    """
    rank = np.arange(1, scores.shape[1] + 1)
    counted = hits.cumsum(axis=1, dtype=np.int32)
    right = hits & (rank <= r[:, None])
    gains = np.where(right, counted / rank, 0)
    average, found = gains.sum(axis=1), right.sum(axis=1).astype(np.float64)
    no_hit = (~hits[:, : max(ks)]).astype(np.float64)  # probability, given no hit at a rank before

    limit = np.maximum(r, max(ks))
    at, before, hits_before, size, group_hits = _mixed(scores, hits, counted, limit, whole)
    row, place = at  # both from 0
    inside = place < r[row]
    position = place - before  # in the group, from 0
    share = group_hits / size * inside
    # Given a hit at this rank, the group's other size - 1 ranks hold hits - 1 hits.
    others = position * (group_hits - 1) / (size - 1)
    precision = (hits_before + 1 + others) / (place + 1)
    np.add.at(average, row, share * precision - gains[at])
    np.add.at(found, row, share - right[at])
    early = place < no_hit.shape[1]
    left = (size - position)[early]
    no_hit[row[early], place[early]] = np.maximum(left - group_hits[early], 0) / left
    recalls = [1 - no_hit[:, :k].prod(axis=1) for k in ks]
    return np.stack([*recalls, average / r, found / r])


def _mixed(
    scores: NDArray[np.float32],
    hits: Bools,
    counted: NDArray[np.int32],
    limit: Ints,
    whole: Callable[[int], tuple[int, int]] | None,
) -> tuple[tuple[Ints, Ints], Ints, Ints, Ints, Ints]:
    """Return the ranks in groups of equal scores that hold both hits and other images.

    Args:
        scores: ``[Q, D]``, descending.
        hits: ``[Q, D]``, true for images of the query's class.
        counted: ``[Q, D]``, the hits up to each rank.
        limit: ``[Q]``, the number of ranks that matter.
        whole: The sizes of a ranking's last group; see :func:`expected`.

    Returns:
        For each of these ranks: the ranking and the rank, from 0; the number of images and of hits
        before its group; and the number of images and of hits in its group.
    """
    equal = scores[:, 1:] == scores[:, :-1]
    begins, member = np.ones_like(hits), np.zeros_like(hits)
    begins[:, 1:] = ~equal
    member[:, 1:] = equal
    member[:, :-1] |= equal
    row, place = at = np.nonzero(member)
    first = begins[at]
    group = first.cumsum() - 1
    start = row[first], place[first]
    size = np.bincount(group, minlength=len(start[0]))
    found = np.bincount(group[hits[at]], minlength=len(start[0]))
    matters = start[1] < limit[start[0]]
    if whole is not None:
        last = matters & (start[1] + size == scores.shape[1])
        for number in np.flatnonzero(last):
            size[number], found[number] = whole(int(start[0][number]))
    mixed = matters & (found > 0) & (found < size)
    kept = mixed[group] & (place < limit[row])
    group = group[kept]
    hits_before = counted[start] - hits[start]
    return (row[kept], place[kept]), start[1][group], hits_before[group], size[group], found[group]
