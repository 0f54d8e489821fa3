"""Ties: in all metrics, each order of equal scores counts as equally likely."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.images import ImageSet, image_set_of
from siamkit.evaluation.few_shot import few_shot
from siamkit.evaluation.neighbourhood import neighbourhood
from siamkit.evaluation.retrieval import chance_of, retrieval, retrieval_of
from siamkit.evaluation.summary import summarize
from siamkit.evaluation.ties import expected
from siamkit.training.validation import Evaluator

KS = (1, 2, 3)


def by_hand(hits: tuple[bool, ...], r: int) -> list[float]:
    """Return recall@k, average precision at R and R-precision of one order."""
    precision = [sum(hits[: i + 1]) / (i + 1) * hits[i] for i in range(min(r, len(hits)))]
    return [*(float(any(hits[:k])) for k in KS), sum(precision) / r, sum(hits[:r]) / r]


def by_orders(scores: list[int], hits: list[bool], r: int) -> np.ndarray:
    """Return the metrics, averaged over all orders of the items in which the scores descend."""
    orders = [
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return np.mean([by_hand(tuple(hits[i] for i in order), r) for order in orders], axis=0)


rankings = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6)


@given(rankings.filter(lambda ranking: any(hit for _, hit in ranking)))
def test_the_expected_metrics_are_the_mean_over_all_orders(ranking):
    ranking = sorted(ranking, key=lambda item: -item[0])
    scores, hits = map(list, zip(*ranking, strict=True))
    r = sum(hits)
    found = expected(np.array([scores]), np.array([hits]), np.array([r]), KS)
    np.testing.assert_allclose(found[:, 0], by_orders(scores, hits, r), atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=2, max_size=6))
def test_retrieval_takes_the_mean_over_all_orders(images):
    angles = np.array([angle for angle, _ in images]) * 0.3
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = np.array([label for _, label in images])
    rows = []
    for query, label in enumerate(labels.tolist()):
        others = [i for i in range(len(images)) if i != query]
        hits = [bool(labels[i] == label) for i in others]
        if any(hits):
            near = [-abs(images[i][0] - images[query][0]) for i in others]
            rows.append(by_orders(near, hits, sum(hits)))
    if not rows:
        return
    found = retrieval(vectors, labels, ks=KS)
    ours = [*found.recall.values(), found.map_at_r, found.r_precision]
    np.testing.assert_allclose(ours, np.mean(rows, axis=0), atol=1e-6)


def equal(noise: float) -> tuple[np.ndarray, ImageSet]:
    """Return embeddings that are equal up to noise, and their images: 4 classes of 4 each."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal((1, 33), dtype=np.float32)
    vectors = one + noise * rng.standard_normal((16, 33), dtype=np.float32)
    return vectors, image_set_of([f"class {index // 4}" for index in range(16)])


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7])
def test_equal_scores_give_the_figures_of_chance_everywhere(noise):
    vectors, images = equal(noise)
    chance = chance_of(images)
    assert chance["recall@1"] == pytest.approx(3 / 15)
    training = Evaluator(images, torch.device("cpu")).score(vectors)
    assert training["recall@1"] == pytest.approx(chance["recall@1"])
    assert training["map@r"] == pytest.approx(chance["map@r"])
    found = summarize(vectors, images)
    for name, value in chance.items():
        assert found["retrieval"][name] == pytest.approx(value), name
    near = neighbourhood(vectors, np.array(images.labels), 3)  # of the report
    assert near.right[near.findable].mean() == pytest.approx(chance["recall@1"])
    assert found["verification"]["auc"] == found["verification"]["eer"] == 0.5
    fewer = few_shot(vectors, np.array(images.labels), ways=3, shots=1, queries=2)
    assert fewer.accuracy == pytest.approx(1 / 3) and fewer.margin == pytest.approx(0, abs=1e-6)


def test_a_triplet_whose_images_are_equally_near_counts_half():
    from siamkit.data.images import Tuples

    vectors, images = equal(1e-8)
    rows = tuple((4 * c, 4 * c + 1, (4 * c + 4) % 16) for c in range(4))
    listed = ImageSet(images.samples, images.classes, Tuples(rows))
    assert summarize(vectors, listed)["triplets"]["accuracy"] == 0.5


def test_the_reports_share_of_right_neighbours_is_recall_at_1():
    vectors, images = equal(0.0)
    vectors = np.concatenate([vectors[:6], np.random.default_rng(0).standard_normal((10, 33))])
    near = neighbourhood(vectors, np.array(images.labels), 3)
    recall = retrieval_of(vectors, images).recall[1]
    assert 0 < recall < 1 and near.right[near.findable].mean() == pytest.approx(recall)
