import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.hamming import near_groups, near_pairs

# Few bases with few changed bits, so that there are near pairs.
changes = st.tuples(st.integers(0, 2), st.sets(st.integers(0, 63), max_size=4))


def hashes_of(changed: list) -> np.ndarray:
    bases = (0, 0x0123456789ABCDEF, 2**64 - 1)
    values = {bases[base] ^ sum(1 << bit for bit in bits) for base, bits in changed}
    return np.array(sorted(values), np.uint64)


def brute(hashes: np.ndarray, most: int) -> set[tuple[int, int]]:
    pairs = itertools.combinations(enumerate(hashes.tolist()), 2)
    return {(i, j) for (i, a), (j, b) in pairs if (a ^ b).bit_count() <= most}


@given(st.lists(changes, max_size=40), st.integers(0, 6))
def test_near_pairs_are_all_that_comparing_each_finds(changed: list, most: int) -> None:
    hashes = hashes_of(changed)
    found = {
        (min(pair), max(pair))
        for first, other in near_pairs(hashes, most)
        for pair in zip(first.tolist(), other.tolist(), strict=True)
    }
    assert found == brute(hashes, most)


@given(st.lists(changes, max_size=40), st.integers(0, 6), st.sampled_from([0, 3, 1 << 20]))
def test_groups_are_what_near_pairs_connect(changed: list, most: int, kept: int) -> None:
    hashes = hashes_of(changed)
    group = list(range(len(hashes)))
    for i, j in brute(hashes, most):
        group = [group[i] if g == group[j] else g for g in group]
    found = near_groups(hashes, most, kept=kept)
    pairs = itertools.combinations(range(len(group)), 2)
    assert all((found[i] == found[j]) == (group[i] == group[j]) for i, j in pairs)


def test_many_hashes_take_no_comparison_of_each_with_each() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64))
    assert len(set(near_groups(hashes, 4).tolist())) == len(hashes)
