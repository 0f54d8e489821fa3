"""Exact search in numpy: the largest values of rows, and the nearest vectors of a gallery.

All searches use one order: the more similar first, and the lower index first among equal scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, NonFiniteError
from .cosine import STEPS, steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cosine import Floats

    Ints = NDArray[np.int64]

_GROUP = 16  # columns
_PRODUCTS = 1 << 22  # per block: 16 MB
_MOST_QUERIES = 512  # per block


def nearest(queries: Floats, gallery: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the k nearest vectors of each query, the most similar first.

    The search is exact. Among equal scores (:func:`.cosine`), the lower index comes first. So the
    result depends on the machine and on the size of the blocks only where two similarities differ
    by less than their rounding.

    Args:
        queries: Unit vectors ``[Q, E]``.
        gallery: Unit vectors ``[N, E]``; a memory map is read block by block.
        k: The number of results; all vectors if the gallery has fewer.

    Returns:
        The scores ``[Q, min(k, N)]`` and the indices ``[Q, min(k, N)]``.

    Raises:
        DataError: The shapes do not fit, or k is not positive.
        NonFiniteError: A product is NaN, which has no order.
    """
    require_fit(queries, gallery, k)
    wanted = np.asarray(queries, np.float32)
    k = min(k, len(gallery))
    scores, indices = np.empty((len(wanted), k), np.float32), np.empty((len(wanted), k), np.int64)
    for start in range(0, len(wanted), _MOST_QUERIES):
        some = slice(start, start + _MOST_QUERIES)
        scores[some], indices[some] = _search(wanted[some], gallery, k)
    return scores, indices


def _search(queries: Floats, gallery: Floats, k: int) -> tuple[Floats, Ints]:
    best, at = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    rows = _PRODUCTS // len(queries)  # at least one, because there are at most _MOST_QUERIES
    for start in range(0, len(gallery), rows):
        block = np.asarray(gallery[start : start + rows], np.float32)
        where = f"rows {start} to {start + len(block) - 1} of the gallery"
        found, columns = ranked(queries @ block.T, min(k, len(block)), where=where)
        best, at = np.concatenate([best, found], 1), np.concatenate([at, columns + start], 1)
        # Earlier blocks come first, so a stable sort keeps the order of equal scores.
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, at = np.take_along_axis(best, order, 1), np.take_along_axis(at, order, 1)
    return np.clip(best / STEPS, -1, 1), at


def ranked(products: Floats, count: int, *, where: str = "products") -> tuple[Floats, Ints]:
    """Return the largest products of each row in whole steps, and their columns.

    Larger steps (:func:`.steps`) come first, and lower columns first among equal steps.

    Args:
        products: The products of unit vectors ``[B, M]``; -inf for those that do not count.
        count: The number of products per row, from 1 to M.
        where: The name of the products in messages.

    Returns:
        The steps ``[B, count]`` and the columns ``[B, count]``.

    Raises:
        NonFiniteError: A product is NaN, which has no order.
    """
    # One more product shows whether one that is left out has the steps of the last one.
    columns = largest(products, min(count + 1, products.shape[1]), where=where)
    columns.sort(axis=1)
    top = steps(np.take_along_axis(products, columns, 1))
    order = np.argsort(-top, axis=1, kind="stable")
    top, columns = np.take_along_axis(top, order, 1), np.take_along_axis(columns, order, 1)
    tied = (top[:, count:] == top[:, count - 1 : count]).any(axis=1)
    top, columns = top[:, :count], columns[:, :count]
    for row in np.flatnonzero(tied):
        last = top[row] == top[row, -1]
        equal = np.flatnonzero(steps(products[row]) == top[row, -1])
        columns[row, last] = equal[: np.count_nonzero(last)]
    return top, columns


def largest(values: Floats, count: int, *, where: str = "values") -> Ints:
    """Return the columns ``[B, count]`` of the largest values of each row, in any order.

    If equal values do not all fit, any of them are left out.

    Partitioning long rows would take longer than computing their products. So the rows are first
    reduced to the maxima of groups of columns. Only the groups with the largest maxima can hold the
    largest values.

    Args:
        values: ``[B, M]``.
        count: The number of values per row, from 1 to M.
        where: The name of the values in messages.

    Raises:
        NonFiniteError: A value is NaN, which has no order.
    """
    rows, width = values.shape
    groups = width // _GROUP
    if groups < 2 * count:
        if np.isnan(values).any():
            raise not_a_number(where)
        return np.argpartition(values, width - count, axis=1)[:, width - count :]
    # A group is made of every groups-th column, so that maxima run over whole rows of memory.
    whole = groups * _GROUP
    maxima = values[:, :whole].reshape(rows, _GROUP, groups).max(axis=1)  # NaN stays NaN
    chosen = largest(maxima, count, where=where)  # [B, count]
    columns = np.empty((rows, _GROUP * count + width - whole), np.int64)
    members = columns[:, : _GROUP * count].reshape(rows, _GROUP, count)  # a view
    np.add(chosen[:, None, :], np.arange(0, whole, groups)[:, None], out=members)
    columns[:, _GROUP * count :] = np.arange(whole, width)
    best = largest(np.take_along_axis(values, columns, 1), count, where=where)
    return np.take_along_axis(columns, best, 1)


def require_fit(queries: Floats, gallery: Floats, k: int) -> None:
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
