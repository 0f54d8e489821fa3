from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.data.images import Tuples
from siamkit.evaluation.pairs import identity_folds, known_pairs, pairs_of, scores

label_sets = st.lists(st.integers(0, 6), min_size=4, max_size=40).map(np.array)


def test_few_images_give_all_pairs():
    labels = np.array([0, 0, 1])
    found = pairs_of(labels)
    assert found.all
    assert list(zip(found.first, found.second, found.same, strict=True)) == [
        (0, 1, True), (0, 2, False), (1, 2, False),
    ]  # fmt: skip


def test_as_many_pairs_as_are_wanted_are_all_pairs():
    labels = np.array([0, 0, 1, 1, 2, 3])  # 15 pairs
    assert len(pairs_of(labels, most=15).first) == 15 and pairs_of(labels, most=15).all
    assert len(pairs_of(labels, most=14).first) <= 14 and not pairs_of(labels, most=14).all


def test_listed_pairs_are_all_pairs():
    found = known_pairs(Tuples(((0, 1), (2, 1)), (True, False)))
    assert found.all and found.same.tolist() == [True, False]
    assert (found.first.tolist(), found.second.tolist()) == ([0, 2], [1, 1])


@settings(deadline=None)
@given(label_sets, st.integers(2, 100), st.integers(0, 3))
def test_pairs_are_distinct_right_and_no_more_than_wanted(labels, most, seed):
    found = pairs_of(labels, most=most, seed=seed)
    assert len(found.first) <= most
    assert (found.first < found.second).all()
    assert len(set(zip(found.first, found.second, strict=True))) == len(found.first)
    assert np.array_equal(found.same, labels[found.first] == labels[found.second])


def test_a_draw_holds_all_same_pairs_if_there_is_room_and_the_rest_differ():
    labels = np.repeat(np.arange(100), 5)  # 1000 same pairs of 124,750
    found = pairs_of(labels, most=10_000)
    assert not found.all
    assert found.same.sum() == 1000 and len(found.first) == 10_000
    assert np.array_equal(found.first, pairs_of(labels, most=10_000).first)
    assert not np.array_equal(found.first, pairs_of(labels, most=10_000, seed=1).first)


@pytest.mark.parametrize(
    ("large", "most"),
    [
        (200, 1000),  # most same pairs are of the large class
        (20, 400),  # the 100 of the small ones are a third: 190 of the large, 200 may be drawn
    ],
)
def test_a_large_class_does_not_crowd_the_others_out(large, most):
    labels = np.concatenate([np.zeros(large, np.int64), np.tile(np.arange(1, 101), 2)])
    found = pairs_of(labels, most=most)
    of_the_small = found.same & (labels[found.first] > 0)
    assert of_the_small.sum() == 100


def test_what_small_classes_leave_of_the_room_goes_to_the_large_ones():
    sizes = [max(2, 300 // k) for k in range(1, 60)]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = pairs_of(labels, most=20_000)
    kept = np.bincount(labels[found.first[found.same]], minlength=len(sizes))
    whole = np.array([size * (size - 1) // 2 for size in sizes])
    assert whole.sum() > 10_000 >= kept.sum() > 10_000 - len(sizes)
    cut = kept < whole
    assert cut.any() and len(set(kept[cut])) == 1 and kept[~cut].max() <= kept[cut].max()


def test_scores_are_cosines():
    embeddings = np.random.default_rng(0).standard_normal((20, 8))
    pairs = pairs_of(np.arange(20) % 4)
    a, b = embeddings[pairs.first], embeddings[pairs.second]
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert scores(3 * embeddings, pairs) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(label_sets, st.integers(2, 10), st.integers(0, 3))
def test_no_identity_is_in_two_folds(labels, folds, seed):
    pairs = pairs_of(labels)
    found = identity_folds(labels, pairs, folds=folds, seed=seed)
    where: dict[int, set[int]] = {}
    for fold, a, b in zip(found, pairs.first, pairs.second, strict=True):
        if fold >= 0:
            for name in (labels[a], labels[b]):
                where.setdefault(int(name), set()).add(int(fold))
    assert all(len(one) == 1 for one in where.values())
    assert (found[pairs.same] >= 0).all(), "no same pair is left out"


def test_each_fold_has_both_kinds_of_pairs():
    labels = np.repeat(np.arange(30), 4)
    pairs = pairs_of(labels)
    folds = identity_folds(labels, pairs)
    for fold in range(10):
        inside = pairs.same[folds == fold]
        assert 0 < inside.sum() < len(inside)


def test_a_large_class_needs_no_memory_for_all_its_pairs():
    labels = (np.arange(20_000) == 7).astype(np.int64)  # 200 million pairs
    tracemalloc.start()
    found = pairs_of(labels, most=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert found.same.sum() == 5000 and (~found.same).sum() == 5000


def test_pairs_with_the_one_image_of_a_rare_class_are_found():
    labels = (np.arange(5000) == 7).astype(np.int64)  # 4,999 of 12 million pairs differ
    found = pairs_of(labels, most=20_000)
    different = set(zip(found.first[~found.same], found.second[~found.same], strict=True))
    assert different == {(min(i, 7), max(i, 7)) for i in range(5000) if i != 7}


def test_each_pair_is_equally_likely():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 2)
    drawn: Counter[tuple[int, int]] = Counter()
    for seed in range(2000):
        found = pairs_of(labels, most=20, seed=seed)
        drawn.update(zip(found.first.tolist(), found.second.tolist(), strict=True))
    different = [drawn[a, b] for a, b in combinations(range(11), 2) if labels[a] != labels[b]]
    large = [drawn[a, b] for a, b in combinations(range(6), 2)]
    for counts in (different, large):
        assert min(counts) > 0.8 * np.mean(counts) and max(counts) < 1.2 * np.mean(counts)
