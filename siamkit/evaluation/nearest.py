"""Exact search: the k largest values of each row, and the k nearest vectors of a gallery.

``torch.topk`` over long rows of scores takes longer than computing the scores. So a first, fast
pass reduces each row to the maxima of groups of columns. The second pass examines only the groups
that can hold one of the k largest values.

All searches use one order: larger values first, and the lower index first among equal values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamkit.errors import DataError, NonFiniteError
from siamkit.evaluation.cosine import cosine

_GROUP, _LARGE_GROUP = 16, 64  # columns per group; large groups are for rows with a lower limit
_SCORES = 1 << 21  # per block: 8 MB, which stay in the CPU caches between the two passes
_ALIGNED = 1024  # the number of rows of a block is a multiple of this, which is faster
_MOST_QUERIES = 512  # per block
_MOST_ROWS = 1 << 17  # per block

Vectors = Tensor | np.ndarray[Any, Any]


def largest(
    values: Tensor, count: int, *, above: Tensor | None = None, where: str = "values"
) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest values of each row and their columns, both ``[B, count]``.

    The largest value comes first, and the lower column first among equal values.

    Args:
        values: ``[B, M]``, floats.
        count: The number of values, at most M.
        above: A lower limit ``[B]`` for each row; only values above the limit matter. If every row
            has fewer than ``count`` such values, the result is narrower. Rows with fewer such
            values than other rows may have smaller values in the remaining columns.
        where: The name of the values in messages.

    Raises:
        NonFiniteError: A value is NaN, which has no order.
    """
    # One more value shows whether an omitted value equals the last returned value.
    columns = _largest(values, min(count + 1, values.shape[1]), above, where=where)
    top = values.gather(1, columns)
    tied = top[:, count:] == top[:, count - 1 : count]
    top, columns = top[:, :count], columns[:, :count]
    rows = (top[:, 1:] == top[:, :-1]).any(dim=1).nonzero().flatten()
    if len(rows):
        columns[rows] = _in_order(top[rows], columns[rows])
    rows = tied.any(dim=1).nonzero().flatten()
    if len(rows):
        columns[rows] = _first_of_equals(values[rows], top[rows], columns[rows])
    return top, columns


def unordered(values: Tensor, count: int, *, where: str) -> Tensor:
    """Return the columns ``[B, count]`` of each row's largest values, the largest value first.

    The order of equal values is arbitrary. If not all of them fit, it is arbitrary which are left
    out.

    Args:
        values: ``[B, M]``, floats.
        count: The number of values, at most M.
        where: The name of the values in messages.

    Raises:
        NonFiniteError: A value is NaN, which has no order.
    """
    return _largest(values, count, where=where)


def _in_order(top: Tensor, columns: Tensor) -> Tensor:
    """Return ``columns`` such that the columns of equal values are in ascending order."""
    columns, order = columns.sort(dim=1)
    _, back = top.gather(1, order).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, back)


def _first_of_equals(values: Tensor, top: Tensor, columns: Tensor) -> Tensor:
    """Return ``columns`` ``[B, count]`` with the lowest columns chosen among ties at the end.

    If more values of a row equal its last chosen value than fit, those in the lowest columns stay.
    """
    last = top[:, -1:]
    places = top == last  # [B, count], to be replaced
    width = values.shape[1]
    exact = torch.float32 if width <= 1 << 24 else torch.float64
    early = -torch.arange(width, device=values.device, dtype=exact)
    first = _largest(torch.where(values == last, early, -torch.inf), top.shape[1])
    wanted = torch.arange(top.shape[1], device=values.device) < places.sum(dim=1, keepdim=True)
    chosen = columns.clone()
    chosen[places] = first[wanted]
    return chosen


def _largest(
    values: Tensor,
    count: int,
    above: Tensor | None = None,
    *,
    where: str | None = None,
    in_order: bool = True,
) -> Tensor:
    """Return the columns of the ``count`` largest values of each row.

    The order of equal values is arbitrary. If not all of them fit, it is arbitrary which are left
    out.

    Args:
        values: ``[B, M]``, floats.
        count: The number of values, at most M.
        above: A lower limit ``[B]`` for each row, or None; see :func:`largest`.
        where: The name of the values in messages; None skips the check for NaN.
        in_order: Whether to return the largest value's column first; otherwise, in any order.
    """
    size = _GROUP if above is None else _LARGE_GROUP
    groups = values.shape[1] // size
    if groups < 2 * count and above is None:
        _require_numbers(values, where)
        return values.topk(count, sorted=in_order).indices
    # A group is made of every groups-th column, so that maxima run over whole rows of memory.
    whole = groups * size
    grouped, rest = values[:, :whole].unflatten(1, (size, groups)), values[:, whole:]
    maxima = grouped.amax(1)  # [B, groups]
    _require_numbers(maxima, where)
    _require_numbers(rest, where)
    depth = min(count, groups)
    if above is not None:
        depth = min(depth, int((maxima > above[:, None]).sum(dim=1).max()) if groups else 0)
    if not depth:
        return rest.topk(min(count, rest.shape[1]), sorted=in_order).indices + whole
    chosen = _largest(maxima, depth, in_order=False)  # [B, depth]
    members = grouped.gather(2, chosen[:, None, :].expand(-1, size, -1)).flatten(1)
    # The columns after the last whole group come last.
    candidates = torch.cat([members, rest], 1)
    at = candidates.topk(min(count, candidates.shape[1]), sorted=in_order).indices
    member = at.div(depth, rounding_mode="floor")
    column = member * groups + chosen.gather(1, at % depth)
    return torch.where(member < size, column, at - size * depth + whole)


def _require_numbers(values: Tensor, where: str | None) -> None:
    if where is not None and values.isnan().any():
        raise not_a_number(where)


def exact_search(queries: Vectors, gallery: Vectors, k: int) -> tuple[Tensor, Tensor]:
    """Return the k most similar vectors of each query: their scores and indices in the gallery.

    The search is exact. Scores are rounded by :func:`.cosine`, and among equal scores the lower
    index comes first. So the results depend neither on the machine nor on the size of the blocks.

    Args:
        queries: Unit vectors ``[Q, E]``.
        gallery: Unit vectors ``[N, E]``; a NumPy memory map is read block by block.
        k: The number of results; all vectors if the gallery has fewer.

    Returns:
        Scores ``[Q, min(k, N)]`` float32, descending, and indices ``[Q, min(k, N)]`` int64, on the
        gallery's device (the CPU for arrays).

    Raises:
        DataError: An argument is not a matrix, the numbers of columns differ, or k is not positive.
        NonFiniteError: A score is NaN, which has no order.
    """
    require_fit(queries, gallery, k)
    device = gallery.device if isinstance(gallery, Tensor) else torch.device("cpu")
    wanted = as_tensor(queries).to(device, torch.float32)  # [Q, E]
    k = min(k, len(gallery))
    parts = [_search(part, gallery, k) for part in wanted.split(_MOST_QUERIES) if len(part)]
    if not parts:
        return torch.empty(0, k, device=device), torch.empty(0, k, dtype=torch.int64, device=device)
    scores, indices = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(indices)


def _search(queries: Tensor, gallery: Vectors, k: int) -> tuple[Tensor, Tensor]:
    count = len(queries)
    best = torch.empty(count, 0, device=queries.device)
    at = torch.empty(count, 0, dtype=torch.int64, device=queries.device)
    size = min(max(_SCORES // count // _ALIGNED, 1) * _ALIGNED, _MOST_ROWS)
    for start, block in _blocks(gallery, size):
        scores = cosine(queries @ block.T)  # [Q, B]
        where = f"rows {start} to {start + len(block) - 1} of the gallery"
        worst = best[:, -1] if best.shape[1] == k else None
        new, columns = largest(scores, min(k, len(block)), above=worst, where=where)
        # Earlier blocks come first, so a stable sort keeps the order of equal scores.
        best, order = torch.cat([best, new], dim=1).sort(dim=1, descending=True, stable=True)
        at = torch.cat([at, columns + start], dim=1).gather(1, order[:, :k])
        best = best[:, :k]
    return best, at


def _blocks(gallery: Vectors, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(gallery), rows):
        yield start, as_tensor(gallery[start : start + rows]).float()


def as_tensor(vectors: Vectors) -> Tensor:
    """Return vectors as a tensor, without a copy if possible."""
    if isinstance(vectors, Tensor):
        return vectors.detach()
    with warnings.catch_warnings():
        # torch warns about read-only arrays, but nothing writes to this tensor.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(vectors))


def require_fit(queries: Vectors, gallery: Vectors, k: int) -> None:
    """Check that queries and gallery fit together.

    Raises:
        DataError: An argument is not a matrix, the numbers of columns differ, or k is not positive.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(
            "queries and gallery must be matrices with the same number of columns",
            got=(tuple(queries.shape), tuple(gallery.shape)),
            allowed="[Q, E] and [N, E]",
        )
    if k < 1:
        raise DataError("must be positive", where="k", got=k)


def not_a_number(where: str) -> NonFiniteError:
    """Return the error about a score that is NaN."""
    return NonFiniteError(
        "a score is NaN, so a query or a gallery vector contains NaN or infinity",
        where=where,
        hint="embed the images again",
    )
