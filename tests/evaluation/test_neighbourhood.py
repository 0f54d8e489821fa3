"""Neighbours, hardest pairs, and the queries that a report shows."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.evaluation.neighbourhood import (
    gallery_queries,
    hardest,
    hardest_known,
    neighbourhood,
)
from siamkit.portable.cosine import directions


def held_out(labels, width=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(labels) + 1, width), dtype=np.float32)
    embeddings = centres[labels] + 0.4 * rng.standard_normal((len(labels), width), dtype=np.float32)
    return SimpleNamespace(embeddings=embeddings, images=SimpleNamespace(labels=labels))


LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=24)


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(1, 5))
def test_neighbours_are_those_of_a_plain_loop(labels, k):
    held = held_out(labels)
    near = neighbourhood(held.embeddings, np.array(labels), k)
    vectors = directions(held.embeddings)
    for i in range(len(labels)):
        scores = {j: float(vectors[i] @ vectors[j]) for j in range(len(labels)) if j != i}
        ranked = sorted(scores, key=lambda j: -scores[j])[:k]
        assert near.nearest[i].tolist() == ranked
        assert near.right[i] == (labels[ranked[0]] == labels[i])
        others = [j for j in scores if labels[j] != labels[i]]
        own = [j for j in scores if labels[j] == labels[i]]
        assert near.closest_other[i] == max(others, key=scores.get, default=-1)
        assert near.farthest_same[i] == min(own, key=scores.get, default=-1)
        assert near.findable[i] == bool(own)


def test_blocks_change_nothing(monkeypatch):
    from siamkit.evaluation import neighbourhood as module

    held = held_out([0, 1, 2] * 10)
    whole = neighbourhood(held.embeddings, np.array(held.images.labels), 3)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 30 * 7)  # 7 rows at a time
    parts = neighbourhood(held.embeddings, np.array(held.images.labels), 3)
    assert np.array_equal(whole.nearest, parts.nearest)
    assert np.array_equal(whole.closest_other, parts.closest_other)


def test_the_hardest_pairs_come_first_and_two_classes_only_once():
    labels = np.array([0, 0, 1, 1, 2])
    partner, scores = np.array([2, 3, 0, 1, 0]), np.array([0.9, 0.8, 0.9, 0.8, 0.85])
    found = hardest(partner, scores, labels, 5, highest=True)
    assert found == [(0, 2, 0.9), (0, 4, 0.85)]
    scores = np.array([0.5, 0.5, 0.4, 0.4, 0.1])
    lowest = hardest(np.array([1, 0, 3, 2, -1]), scores, labels, 5, highest=False)
    assert [(a, b) for a, b, _ in lowest] == [(2, 3), (0, 1)]


def test_queries_are_drawn_from_either_kind_and_always_the_same():
    held = held_out([0, 1, 2, 3] * 8, seed=3)
    near = neighbourhood(held.embeddings, np.array(held.images.labels), 2)
    right, wrong = gallery_queries(near, 3, 3, seed=0)
    assert all(near.right[i] for i in right) and not any(near.right[i] for i in wrong)
    assert (right, wrong) == gallery_queries(near, 3, 3, seed=0)


def test_of_equally_near_images_the_first_come_first():
    labels = np.array([0, 1] * 10)
    near = neighbourhood(np.ones((20, 2), np.float32), labels, 3)
    assert near.nearest[5].tolist() == [0, 1, 2] and near.nearest[0].tolist() == [1, 2, 3]
    assert near.closest_other[5] == 0 and near.farthest_same[5] == 1


def test_known_pairs_come_hardest_first():
    scores = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.3])
    same = np.array([True, True, True, False, False, False])
    pairs = SimpleNamespace(first=np.arange(6), second=np.arange(6) + 10, same=same)
    known = SimpleNamespace(pairs=pairs, scores=scores)
    accepts, rejects = hardest_known(known, 2)
    assert accepts == [(4, 14, 0.7), (5, 15, 0.3)]
    assert rejects == [(1, 11, 0.1), (2, 12, 0.5)]
    assert list(map(len, hardest_known(known, 9))) == [3, 3]


def test_images_without_a_partner_are_in_no_pair():
    partner, labels = np.array([-1, 2, 1]), np.array([0, 1, 2])
    scores = np.array([0.9, 0.5, 0.5])
    assert hardest(partner, scores, labels, 5, highest=True) == [(1, 2, 0.5)]
