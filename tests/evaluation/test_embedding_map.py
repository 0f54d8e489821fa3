"""The map of embeddings: t-SNE of a sample, or none."""

from __future__ import annotations

import numpy as np
import pytest

from siamkit.evaluation.embedding_map import embedding_map


def groups(count: int) -> np.ndarray:
    """Return two groups of ``count`` embeddings each, far from one another."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(2, 6) * 5, count, axis=0)
    return centres + rng.standard_normal((2 * count, 6)) * 0.1


def test_a_map_fills_the_square_and_keeps_groups_apart() -> None:
    found = embedding_map(groups(10))
    assert found is not None
    assert found.indices.tolist() == list(range(20))
    assert found.places.min(0) == pytest.approx([0, 0]) and found.places.max(0) == pytest.approx(1)
    first, second = found.places[:10], found.places[10:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(np.linalg.norm(g - g.mean(0), axis=1).max() for g in (first, second))


def test_a_large_set_is_mapped_by_a_sample_which_is_the_same_each_time() -> None:
    one, two = (embedding_map(groups(10), most=7) for _ in range(2))
    assert one is not None and two is not None
    assert len(one.indices) == 7 and np.all(np.diff(one.indices) > 0)
    assert one.indices.tolist() != list(range(7)), "a sample, not the first images"
    assert np.array_equal(one.indices, two.indices) and np.array_equal(one.places, two.places)


def test_the_least_that_has_a_map() -> None:
    assert embedding_map(groups(10)[:4]) is None
    assert embedding_map(groups(10)[:5]) is not None
    assert embedding_map(np.ones((8, 3))) is None, "one point"
    assert embedding_map(np.arange(1.0, 9)[:, None]) is None, "one dimension"
    two = np.random.default_rng(0).standard_normal((8, 2))
    assert embedding_map(two) is not None


def test_the_length_of_an_embedding_plays_no_part() -> None:
    vectors = groups(5)
    one, two = embedding_map(vectors), embedding_map(vectors * 8)
    assert one is not None and two is not None
    assert np.array_equal(one.places, two.places)
