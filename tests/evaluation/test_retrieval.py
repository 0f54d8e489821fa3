from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from siamkit.data.images import image_set_of
from siamkit.errors import DataError
from siamkit.evaluation import retrieval as searching
from siamkit.evaluation import ties
from siamkit.evaluation.retrieval import random_baseline, retrieval
from siamkit.portable.cosine import directions


def clustered(n=300, classes=20, dim=16, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (n,))
    centres = rng.standard_normal((classes, dim), dtype=np.float32)
    return centres[labels] + spread * rng.standard_normal((n, dim), dtype=np.float32), labels


def reference(query, query_labels, gallery=None, gallery_labels=None):
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    calculator = AccuracyCalculator(
        include=names, k="max_bin_count", knn_func=CustomKNN(CosineSimilarity())
    )
    given = (query, query_labels, gallery, gallery_labels)
    found = calculator.get_accuracy(*(None if v is None else torch.from_numpy(v) for v in given))
    return [found[name] for name in names]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_the_accuracy_calculator(seed):
    embeddings, labels = clustered(seed=seed)
    found = retrieval(embeddings, labels)
    expected = reference(embeddings, labels)
    assert [found.recall[1], found.map_at_r, found.r_precision] == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_query_and_gallery_agree_with_the_accuracy_calculator():
    embeddings, labels = clustered()
    query = np.arange(300) < 100
    found = retrieval(embeddings, labels, query=query, gallery=~query)
    expected = reference(embeddings[query], labels[query], embeddings[~query], labels[~query])
    assert [found.recall[1], found.map_at_r, found.r_precision] == pytest.approx(expected, abs=1e-6)
    assert (found.queries, found.gallery) == (100, 200)


@pytest.mark.filterwarnings("ignore")
def test_long_rows_and_classes_of_all_sizes_agree_with_the_accuracy_calculator():
    rng = np.random.default_rng(0)
    sizes = np.array([1, 2, 3, 5, 8, 40, 150] * 12)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.permutation(labels)
    centres = rng.standard_normal((len(sizes), 16), dtype=np.float32)
    embeddings = centres[labels] + 1.2 * rng.standard_normal((len(labels), 16), dtype=np.float32)
    found = retrieval(embeddings, labels)
    expected = reference(embeddings, labels)
    assert [found.recall[1], found.map_at_r, found.r_precision] == pytest.approx(expected, abs=1e-6)


def plain(embeddings, labels):
    """Return recall@1 and MAP@R, by loops over the definitions."""
    unit = directions(embeddings)
    hits, averages = [], []
    for q in range(len(labels)):
        others = [i for i in range(len(labels)) if i != q]
        ranked = sorted(others, key=lambda i: -float(unit[q] @ unit[i]))
        relevant = sum(int(labels[i] == labels[q]) for i in others)
        if not relevant:
            continue
        right = [bool(labels[i] == labels[q]) for i in ranked[:relevant]]
        hits.append(right[0])
        precision = [sum(right[: k + 1]) / (k + 1) for k in range(relevant) if right[k]]
        averages.append(sum(precision) / relevant)
    return {"recall@1": sum(hits) / len(hits), "map@r": sum(averages) / len(averages)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(2, 6), min_size=2, max_size=5))
def test_metrics_follow_their_definition(seed, sizes):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), np.array(sizes))
    embeddings = rng.standard_normal((len(labels), 4), dtype=np.float32) + labels[:, None] * 0.5
    found = retrieval(embeddings, labels)
    expected = plain(embeddings, labels)
    assert found.recall[1] == pytest.approx(expected["recall@1"])
    assert found.map_at_r == pytest.approx(expected["map@r"])


def naive_recall(embeddings, labels, k):
    vectors = directions(embeddings)
    hits = []
    for i, row in enumerate(vectors @ vectors.T):
        others = [j for j in np.argsort(-row).tolist() if j != i]
        if (labels == labels[i]).sum() > 1:
            hits.append(any(labels[j] == labels[i] for j in others[:k]))
    return np.mean(hits)


def test_recall_at_k_is_that_of_a_plain_loop():
    embeddings, labels = clustered(n=80, classes=30, spread=3.0)
    found = retrieval(embeddings, labels)
    for k in (1, 5, 10):
        assert found.recall[k] == pytest.approx(naive_recall(embeddings, labels, k))
    assert found.recall[1] <= found.recall[5] <= found.recall[10]


def test_blocks_change_nothing(monkeypatch):
    embeddings, labels = clustered()
    whole = retrieval(embeddings, labels)
    monkeypatch.setattr(searching, "_BLOCK_BYTES", 4 * 300 * 7)
    parts = retrieval(embeddings, labels)
    assert parts.to_json() == pytest.approx(whole.to_json())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 60))
def test_blocks_change_nothing_with_ties_and_classes_of_all_sizes(seed, levels, rows):
    rng = np.random.default_rng(seed)
    labels = np.array([0] * 40 + [1] * 12 + [2] * 3 + [3])
    # The products of these unit vectors are exact, so each size of a block gives the same scores.
    axes = rng.integers(0, levels + 1, len(labels))
    signs = rng.integers(0, 2, (len(labels), 1)) * 2 - 1
    embeddings = np.eye(levels + 1, dtype=np.float32)[axes] * signs.astype(np.float32)
    whole = retrieval(embeddings, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_BLOCK_BYTES", rows * 5000)
        parts = retrieval(embeddings, labels)
    assert parts.to_json() == pytest.approx(whole.to_json())


def test_a_large_class_makes_blocks_smaller(monkeypatch):
    labels = np.array([0] * 900 + [*range(1, 51)] * 2)
    embeddings = np.random.default_rng(0).standard_normal((1000, 8))
    taken = []

    def expected(scores, *others):
        taken.append((len(scores), scores.shape[1]))
        return ties.expected(scores, *others)

    whole = retrieval(embeddings, labels)
    most = 1 << 20
    monkeypatch.setattr(searching, "_BLOCK_BYTES", most)
    monkeypatch.setattr(searching, "expected", expected)
    assert retrieval(embeddings, labels).to_json() == pytest.approx(whole.to_json())
    assert sum(rows for rows, _ in taken) == 1000
    assert all(rows * (4 * 1000 + searching._RANK_BYTES * (d - 1)) <= most for rows, d in taken)
    assert taken[0] == (100, 11), "queries of small classes need a short ranking"


def test_images_that_are_alone_in_their_class_are_searched_but_no_queries():
    embeddings = np.eye(5, dtype=np.float32)
    labels = np.array([0, 0, 1, 2, 2])
    found = retrieval(embeddings, labels)
    assert (found.queries, found.left_out, found.gallery, found.classes) == (4, 1, 5, 2)
    found = retrieval(np.eye(6, dtype=np.float32), np.array([0, 0, 0, 1, 2, 3]))
    assert (found.queries, found.left_out) == (3, 3)


def test_a_gallery_that_holds_the_queries_leaves_each_one_out():
    embeddings, labels = clustered()
    everyone = np.ones(300, bool)
    both = retrieval(embeddings, labels, query=everyone, gallery=everyone)
    assert both == retrieval(embeddings, labels)
    some = retrieval(embeddings, labels, query=np.arange(300) < 50)
    assert some.queries == 50 and some.gallery == 300


def test_without_a_pair_there_is_nothing_to_find():
    with pytest.raises(DataError, match="no query has another image"):
        retrieval(np.eye(3, dtype=np.float32), np.arange(3))
    with pytest.raises(DataError, match="no query has another image"):
        random_baseline(np.arange(3))


def test_perfect_embeddings_find_everything():
    labels = np.repeat(np.arange(10), 4)
    noise = np.random.default_rng(0).standard_normal((40, 10))
    found = retrieval(np.eye(10)[labels] + 1e-3 * noise, labels)
    assert found.map_at_r == found.r_precision == found.recall[1] == 1.0


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 10))
def test_the_random_baseline_is_what_random_embeddings_give(classes, images, alone):
    labels = np.concatenate([np.repeat(np.arange(classes), images), np.arange(100, 100 + alone)])
    runs = [
        retrieval(np.random.default_rng(s).standard_normal((len(labels), 64)), labels)
        for s in range(200)
    ]
    for name, value in random_baseline(labels).items():
        values = [run.to_json()[name] for run in runs]
        error = np.std(values) / np.sqrt(len(values))
        assert value == pytest.approx(np.mean(values), abs=5 * error + 1e-6), name


def test_the_baseline_of_a_gallery_of_its_own():
    labels = np.array([0, 0, 0, 1, 1, 1])
    query = np.array([True, False, False, True, False, False])
    found = random_baseline(labels, query=query, gallery=~query)
    assert found["recall@1"] == found["r_precision"] == pytest.approx(0.5)
    assert found["recall@5"] == 1.0


def test_the_totals_of_the_classes_add_up_to_the_metrics():
    labels = [
        name for name, count in (("a", 4), ("b", 3), ("c", 1), ("d", 2)) for _ in range(count)
    ]
    images = image_set_of(labels)
    embeddings = np.random.default_rng(3).standard_normal((10, 5))
    by_class = searching.retrieval_by_class(embeddings, images)
    assert {name: found.queries for name, found in by_class.items()} == {"a": 4, "b": 3, "d": 2}
    whole = searching.retrieval_of(embeddings, images, ks=(1,))
    for metric, value in (("recall@1", whole.recall[1]), ("map@r", whole.map_at_r)):
        total = sum(found.totals[metric] for found in by_class.values())
        assert total / whole.queries == pytest.approx(value)


def test_a_class_counts_the_hits_of_its_own_queries_only():
    images = image_set_of(["a", "a", "b", "b"])
    embeddings = np.array([[1, 0], [1, 0.1], [0, 1], [1, -0.1]])  # the second b looks like an a
    found = searching.retrieval_by_class(embeddings, images)
    assert found["a"].totals["recall@1"] == pytest.approx(2 - 0.5)
    assert found["b"].totals["recall@1"] < 1
