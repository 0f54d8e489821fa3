"""Exact search: the k largest dot products of each query with a gallery, in bounded memory.

``torch.topk`` over millions of columns takes longer than computing them. So a block of scores is
first reduced to the maxima of groups of neighbouring rows, which is one fast pass, and only the
groups that can hold one of the k best are looked into.

Why that is exact: k groups whose maximum is at least t hold k scores of at least t. So whatever
belongs to the k best lies in a group whose maximum is above the k-th largest one, or equal to it;
and among equal ones those that come first hold the scores that come first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamkit.errors import DataError, NonFiniteError

_GROUP = 64  # rows of the gallery
_SCORES = 1 << 21  # of a block: 8 MB, which the processor's caches hold between two passes
_MOST_QUERIES = 512  # at a time
_MOST_ROWS = 1 << 17  # of a block
_LOWEST = torch.iinfo(torch.int64).min

Vectors = Tensor | np.ndarray[Any, Any]


def exact_search(queries: Vectors, gallery: Vectors, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest dot products of each query, and where in the gallery they are.

    Nothing is approximated. Of equal scores the one with the lower index comes first. With vectors
    of length 1 the scores are cosine similarities.

    Args:
        queries: ``[Q, E]``.
        gallery: ``[N, E]``; a NumPy memory map is read block by block. N is below 2**31.
        k: How many; as many as there are where the gallery holds fewer.

    Returns:
        Scores ``[Q, min(k, N)]`` float32, falling, and indices ``[Q, min(k, N)]`` int64, on the
        gallery's device (the CPU for arrays).

    Raises:
        DataError: The shapes do not fit, or k is not positive.
        NonFiniteError: A score is NaN, which has no order.
    """
    require_fit(queries, gallery, k)
    device = gallery.device if isinstance(gallery, Tensor) else torch.device("cpu")
    wanted = _tensor(queries).to(device, torch.float32)  # [Q, E]
    k = min(k, len(gallery))
    found = [_search(part, gallery, k) for part in wanted.split(_MOST_QUERIES) if len(part)]
    best = torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64, device=device)
    return _scores(best), _indices(best)


def _search(queries: Tensor, gallery: Vectors, k: int) -> Tensor:
    """Return the keys ``[Q, k]`` of the best of the gallery, the best first."""
    count = len(queries)
    best = torch.full((count, k), _LOWEST, device=queries.device)  # [Q, k], the k-th last
    rows = max(_SCORES // count // _GROUP, 1) * _GROUP
    for start, block in _blocks(gallery, min(rows, _MOST_ROWS)):
        scores = queries @ block.T  # [Q, B]
        new = _candidates(scores, start, k, best[:, -1])
        if new is not None:
            best = torch.cat([best, new], dim=1).topk(k, dim=1).values
    return best


def _blocks(gallery: Vectors, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(gallery), rows):
        yield start, _tensor(gallery[start : start + rows]).float()


def _candidates(scores: Tensor, start: int, k: int, worst: Tensor) -> Tensor | None:
    """Return keys ``[Q, C]`` among which are all of a block that belong to the k best so far.

    Args:
        scores: ``[Q, B]``.
        start: Index of the block's first row.
        k: How many are sought.
        worst: ``[Q]``: the keys that have to be beaten.

    Returns:
        None where nothing beats them.
    """
    rows = scores.shape[1]
    whole = rows // _GROUP
    grouped = scores[:, : whole * _GROUP].unflatten(1, (whole, _GROUP))
    maxima = grouped.amax(dim=2)  # [Q, G]
    rest = scores[:, whole * _GROUP :]  # [Q, R]: fewer than make a group
    if maxima.isnan().any() or rest.isnan().any():
        raise not_a_number(f"rows {start} to {start + rows - 1} of the gallery")
    parts = []
    if rest.numel():
        parts.append(_keys(rest, torch.arange(start + whole * _GROUP, start + rows)))
    # A later index never beats an equal score, so only larger ones count.
    better = (maxima > _scores(worst)[:, None]) | (worst == _LOWEST)[:, None]
    depth = int(better.sum(dim=1).max()) if whole else 0
    if depth:
        depth = min(depth, k)
        groups = _keys(maxima, torch.arange(whole)).topk(depth, dim=1, sorted=False).values
        within = torch.arange(_GROUP, device=scores.device)
        members = (_indices(groups)[:, :, None] * _GROUP + within).flatten(1)
        inside = scores.gather(1, members)  # [Q, depth * 64]
        parts.append(_keys(inside, members + start))
    return torch.cat(parts, dim=1) if parts else None


def _keys(scores: Tensor, indices: Tensor) -> Tensor:
    """Return int64 that sort as (score, lower index first) does.

    A float's bits, read as an integer, sort as the float does; those of negative ones the other
    way round.
    """
    bits = (scores + 0.0).contiguous().view(torch.int32).to(torch.int64)  # -0 becomes 0
    ordered = torch.where(bits < 0, bits ^ 0x7FFF_FFFF, bits)
    return (ordered << 32) | (0x7FFF_FFFF - indices.to(bits.device))


def _scores(keys: Tensor) -> Tensor:
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFF_FFFF, ordered)
    # The key below all others stands for no score yet.
    scores = bits.to(torch.int32).view(torch.float32)
    return torch.where(keys == _LOWEST, -torch.inf, scores)


def _indices(keys: Tensor) -> Tensor:
    return 0x7FFF_FFFF - (keys & 0x7FFF_FFFF)


def _tensor(vectors: Vectors) -> Tensor:
    if isinstance(vectors, Tensor):
        return vectors.detach()
    with warnings.catch_warnings():
        # torch warns of arrays that are read-only; nothing writes to this one.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(vectors))


def require_fit(queries: Vectors, gallery: Vectors, k: int) -> None:
    """Check that queries can be searched for in a gallery.

    Raises:
        DataError: The shapes do not fit, or k is not positive.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(
            "queries and gallery must be matrices of one width",
            got=(tuple(queries.shape), tuple(gallery.shape)),
            allowed="[Q, E] and [N, E]",
        )
    if k < 1:
        raise DataError("must be positive", where="k", got=k)


def not_a_number(where: str) -> NonFiniteError:
    """Return the error that tells of a score that has no place in an order."""
    return NonFiniteError(
        "a score is NaN, so a query or a vector of the gallery holds NaN or infinity",
        where=where,
        hint="embed the images again",
    )
