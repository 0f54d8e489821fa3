"""Closed forms against plain loops, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf_shrinkage

from siamkit.errors import DataError
from siamkit.model.closed_form import lda, wccn


def drawn(
    seed: int, classes: int = 5, each: int = 6, width: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Classes with means of their own, and the same uneven spread within each."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 2.0, width)
    means = rng.normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), each)
    return means[labels] + rng.normal(size=(len(labels), width)) * spread, labels


def plain_within(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The shrunk covariance within classes, computed by loops."""
    residuals = []
    for label in sorted(set(labels.tolist())):
        members = features[labels == label]
        for row in members:
            scale = len(members) / (len(members) - 1)
            residuals.append((row - members.mean(0)) * np.sqrt(scale))
    count, size = len(residuals), features.shape[1]
    covariance = np.zeros((size, size))
    for row in residuals:
        covariance += np.outer(row, row) / count
    share = min(2 * ledoit_wolf_shrinkage(np.array(residuals), assume_centered=True), 1)
    return (1 - share) * covariance + share * np.trace(covariance) / size * np.eye(size)


def plain_wccn(features: np.ndarray, labels: np.ndarray, width: int) -> np.ndarray:
    """The distances between embeddings, computed by a symmetric root."""
    values, vectors = np.linalg.eigh(plain_within(features, labels))
    white = (features - features.mean(0)) @ (vectors / np.sqrt(values) @ vectors.T)
    _, _, directions = np.linalg.svd(white, full_matrices=False)
    return distances(white @ directions[:width].T)


def test_classes_of_few_images_count_by_their_degrees_of_freedom():
    features, labels = drawn(0, classes=4, each=6)
    rows = np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate((2, 3, 5, 6))])
    features, labels = features[rows], labels[rows]
    np.testing.assert_allclose(
        distances(wccn(features, labels, 4)(features)), plain_wccn(features, labels, 4), rtol=1e-6
    )
    pairs, names = features[np.repeat(range(2), 2) * 2 + np.tile(range(2), 2)], np.repeat([0, 1], 2)
    np.testing.assert_allclose(
        distances(wccn(pairs, names, 2)(pairs)), plain_wccn(pairs, names, 2), rtol=1e-6
    )


def distances(embeddings: np.ndarray) -> np.ndarray:
    return np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), width=st.integers(1, 7))
def test_wccn_gives_the_distances_of_the_plain_computation(seed: int, width: int):
    features, labels = drawn(seed)
    embeddings = wccn(features, labels, width)(features)
    assert embeddings.shape == (len(features), width)
    np.testing.assert_allclose(
        distances(embeddings), plain_wccn(features, labels, width), rtol=1e-6, atol=1e-8
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_wccn_does_not_depend_on_the_order_of_images_or_the_numbers_of_classes(seed: int):
    features, labels = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    names = np.random.default_rng(seed + 1).permutation(100)[: labels.max() + 1]
    one = wccn(features, labels, 4)(features)
    other = wccn(features[order], names[labels][order], 4)(features)
    np.testing.assert_allclose(distances(one), distances(other), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [wccn, lda])
def test_embeddings_are_centred_on_the_training_images(method):
    features, labels = drawn(3)
    np.testing.assert_allclose(method(features, labels, 3)(features).mean(0), 0, atol=1e-9)


def test_wccn_makes_the_spread_within_classes_even():
    features, labels = drawn(0, classes=40, each=50)
    embeddings = wccn(features, labels, 7)(features)
    within = np.concatenate([embeddings[labels == c] - embeddings[labels == c].mean(0)
                             for c in range(40)])  # fmt: skip
    residuals = features - np.repeat(features.reshape(40, 50, 7).mean(1), 50, axis=0)
    uneven, even = (r.var(0).max() / r.var(0).min() for r in (residuals, within))
    assert uneven > 100
    assert even < 2


def test_lda_separates_classes_by_the_direction_that_tells_them_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    noise = rng.normal(size=(100, 2)) * [0.1, 5.0]
    embeddings = lda(noise + labels[:, None] * [1.0, 0.0], labels, 1)(
        noise + labels[:, None] * [1.0, 0.0]
    )[:, 0]
    low, high = sorted((embeddings[labels == 0], embeddings[labels == 1]), key=np.mean)
    assert low.max() < high.min()


@pytest.mark.parametrize(("method", "rank"), [(wccn, 7), (lda, 4)])
def test_rows_beyond_the_rank_are_zero(method, rank: int):
    features, labels = drawn(1)
    weight = method(features, labels, 20).weight
    assert weight.shape == (20, 7)
    assert np.abs(weight[:rank]).max(1).min() > 0
    assert not weight[rank:].any()


# Eight centred images span seven directions; an eighth would be made of rounding errors.
@pytest.mark.parametrize(("method", "rank"), [(wccn, 7), (lda, 3)])
def test_few_images_of_wide_features_are_enough(method, rank: int):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(8, 200)), np.repeat(range(4), 2)
    weight = method(features, labels, 64).weight
    assert np.isfinite(weight).all()
    assert weight[:rank].any(1).all() and not weight[rank:].any()


@pytest.mark.parametrize("method", [wccn, lda])
def test_features_without_spread_give_finite_embeddings(method):
    features, labels = np.ones((6, 4)), np.repeat(range(3), 2)
    assert np.isfinite(method(features, labels, 2)(features)).all()


@pytest.mark.parametrize("method", [wccn, lda])
def test_copies_of_one_image_leave_the_scale_of_features_as_it_is(method):
    # Their difference is rounding errors. Whitened by them, embeddings would overflow in float16.
    rng = np.random.default_rng(0)
    labels = np.repeat(range(5), 2)
    features = rng.normal(size=(5, 8))[labels]
    for noise in (0.0, 1e-7):
        shown = features + noise * rng.normal(size=features.shape)
        embeddings = method(shown, labels, 8)(shown)
        np.testing.assert_allclose(distances(embeddings), distances(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [wccn, lda])
def test_a_single_pair_does_not_tell_which_directions_count(method):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(8, 6)), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    embeddings = method(features, labels, 6)(features)
    ratio = distances(embeddings)[2:, 2:] / np.maximum(distances(features)[2:, 2:], 1e-9)
    ratio = ratio[~np.eye(6, dtype=bool)]
    assert ratio.max() / ratio.min() < 1 + 1e-6


def test_lda_gives_the_directions_of_the_plain_computation():
    features, labels = drawn(4)
    within = plain_within(features, labels)
    means = np.stack([features[labels == label].mean(0) for label in labels]) - features.mean(0)
    values, vectors = eigh(means.T @ means / len(labels), within)
    expected = (features - features.mean(0)) @ vectors[:, ::-1][:, :3]
    assert values[:-4].max() < 1e-9
    embeddings = lda(features, labels, 3)(features)
    np.testing.assert_allclose(np.abs(embeddings), np.abs(expected), rtol=1e-6, atol=1e-8)


def test_classes_of_one_image_only_count_for_the_mean():
    features, labels = drawn(2)
    alone = np.full((1, 7), 50.0)
    more = wccn(np.concatenate([features, alone]), np.append(labels, 99), 7)
    assert np.abs(more(features).mean(0)).max() > 0.1  # the mean moved
    assert np.isfinite(more(features)).all()


@pytest.mark.parametrize("method", [wccn, lda])
def test_classes_of_one_image_alone_are_refused(method):
    with pytest.raises(DataError, match="two images"):
        method(np.random.default_rng(0).normal(size=(4, 3)), np.arange(4), 2)


def test_lda_of_one_class_is_refused():
    with pytest.raises(DataError, match="two classes"):
        lda(np.random.default_rng(0).normal(size=(4, 3)), np.zeros(4, int), 2)
