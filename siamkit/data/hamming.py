"""Near pairs: finds all pairs of 64-bit hashes that differ in few bits, faster than one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

_BITS = 64
_MOST_LINKS = 1 << 20


def near_pairs(hashes: Hashes, most: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield the indices of all pairs of hashes that differ in at most ``most`` bits.

    A pair may come several times. The bits are divided into ``most + 2`` bands. Two hashes that
    differ in at most ``most`` bits are equal in at least two bands, so only hashes that are equal
    in two bands are compared (Manku, Jain and Das Sarma, Detecting near-duplicates for web
    crawling, WWW 2007). Of random hashes, about one pair in 300,000 is compared.

    Args:
        hashes: The hashes ``[N]``, all different.
        most: The largest number of bits in which the hashes of a pair may differ.
    """
    for one, other in combinations(_bands(most + 2), 2):
        key = hashes & (one | other)
        order = np.argsort(key, kind="stable")
        key, ordered = key[order], hashes[order]
        first = np.arange(len(hashes))
        for step in range(1, len(hashes)):
            first = first[first + step < len(hashes)]
            # Keys are sorted: a key that differs from this one differs from all later ones too.
            first = first[key[first] == key[first + step]]
            if not len(first):
                break
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= most]
            if len(near):
                yield order[near], order[near + step]


def near_groups(hashes: Hashes, most: int, *, kept: int = _MOST_LINKS) -> NDArray[np.int32]:
    """Return the group number ``[N]`` of each hash.

    Two hashes are in one group if a chain of near pairs (:func:`near_pairs`) connects them.

    Args:
        hashes: The hashes ``[N]``, all different.
        most: The largest number of bits in which the hashes of a near pair may differ.
        kept: The number of pairs that are held in memory before they are merged into groups.
    """
    group: NDArray[np.int32] = np.arange(len(hashes), dtype=np.int32)
    links: list[tuple[Indices, Indices]] = []
    held = 0
    for first, other in near_pairs(hashes, most):
        apart = group[first] != group[other]
        links.append((group[first[apart]], group[other[apart]]))
        held += int(apart.sum())
        if held > kept:
            group, links, held = _joined(group, links), [], 0
    return _joined(group, links)


def _joined(group: NDArray[np.int32], links: list[tuple[Indices, Indices]]) -> NDArray[np.int32]:
    if not links:
        return group
    rows, columns = (np.concatenate(ends) for ends in zip(*links, strict=True))
    size = len(group)
    graph = coo_matrix((np.ones(len(rows), np.bool_), (rows, columns)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    joined: NDArray[np.int32] = label[group].astype(np.int32)
    return joined


def _bands(count: int) -> list[np.uint64]:
    """Return masks that divide the bits of a hash into ``count`` parts."""
    edges = [_BITS * band // count for band in range(count + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]
