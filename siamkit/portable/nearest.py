"""Exact search in numpy: the k vectors of a gallery that are most similar to each query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, NonFiniteError
from .cosine import cosine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cosine import Floats

_PRODUCTS = 1 << 20  # per block
_MOST_QUERIES = 256  # per block
_INDEX_BITS = 31


def nearest(
    queries: Floats, gallery: Floats, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k nearest vectors of each query, the most similar first.

    The search is exact. Among equal scores (:func:`.cosine`), the lower index comes first.

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
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(
            "queries and gallery must be matrices with the same number of columns",
            got=(tuple(queries.shape), tuple(gallery.shape)),
            allowed="[Q, E] and [N, E]",
        )
    if k < 1:
        raise DataError("must be positive", where="k", got=k)
    k = min(k, len(gallery))
    parts = [queries[at : at + _MOST_QUERIES] for at in range(0, len(queries), _MOST_QUERIES)]
    found = [_search(part, gallery, k) for part in parts]
    if not found:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    keys = np.concatenate(found)
    keys.sort(axis=1)
    return _score(keys), keys & ((1 << _INDEX_BITS) - 1)


def _search(queries: Floats, gallery: Floats, k: int) -> NDArray[np.int64]:
    """Return the keys ``[Q, k]`` of the nearest vectors, in any order."""
    best = np.empty((len(queries), 0), np.int64)
    rows = max(_PRODUCTS // len(queries), 1)
    for start in range(0, len(gallery), rows):
        block = np.asarray(gallery[start : start + rows], np.float32)
        scores = cosine(queries @ block.T)  # [Q, B]
        if np.isnan(scores).any():
            raise NonFiniteError(
                "a score is NaN, so a query or a gallery vector contains NaN or infinity",
                where=f"rows {start} to {start + scores.shape[1] - 1} of the gallery",
                hint="embed the images again",
            )
        best = np.concatenate([best, _keys(scores, start)], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, k - 1, axis=1)[:, :k]
    return best


def _keys(scores: NDArray[np.float32], start: int) -> NDArray[np.int64]:
    """Return one integer per score: the smaller, the larger the score or the lower the index.

    The bits of a float, read as an integer, are in the order of the floats; those of negative
    floats are reversed. So integers can be partitioned with ties in a defined order.
    """
    bits = np.add(scores, 0, dtype=np.float32).view(np.int32).astype(np.int64)  # -0 becomes 0
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (-ordered << _INDEX_BITS) | np.arange(start, start + scores.shape[1])


def _score(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the score of each key of :func:`_keys`."""
    ordered = -(keys >> _INDEX_BITS)
    sizes = np.abs(ordered).astype(np.int32).view(np.float32)
    scores: NDArray[np.float32] = np.where(ordered < 0, -sizes, sizes)
    return scores
