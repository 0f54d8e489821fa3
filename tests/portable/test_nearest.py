from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamkit.errors import DataError, NonFiniteError
from siamkit.evaluation.cosine import cosine as torch_cosine
from siamkit.evaluation.cosine import directions as torch_directions
from siamkit.evaluation.nearest import exact_search
from siamkit.portable import nearest as module
from siamkit.portable.cosine import cosine, directions
from siamkit.portable.nearest import nearest


def grid(rng, rows, width=4):
    """Vectors whose products are exact in float32 and often equal, with either sign."""
    return rng.integers(-2, 3, (rows, width)).astype(np.float32) / 4


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 12))
def test_it_finds_what_torch_finds_also_among_ties(seed, rows, k):
    rng = np.random.default_rng(seed)
    queries, gallery = grid(rng, 5), grid(rng, rows)
    scores, indices = nearest(queries, gallery, k)
    wanted, expected = exact_search(queries, gallery, k)
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == wanted.tolist()


def test_blocks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    queries, gallery = grid(rng, 20), grid(rng, 300)
    whole = nearest(queries, gallery, 7)
    monkeypatch.setattr(module, "_PRODUCTS", 100)
    monkeypatch.setattr(module, "_MOST_QUERIES", 6)
    parts = nearest(queries, gallery, 7)
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


def test_which_of_equally_similar_vectors_are_among_the_first_does_not_depend_on_rounding():
    gallery = np.full((1000, 1), 1 - 2**-24, dtype=np.float32)
    gallery[500:] = 1  # larger, but not in the score
    scores, indices = nearest(np.ones((1, 1), np.float32), gallery, 3)
    assert scores.tolist() == [[1, 1, 1]] and indices.tolist() == [[0, 1, 2]]


def test_a_plain_loop_agrees():
    rng = np.random.default_rng(1)
    queries, gallery = (directions(rng.normal(size=(n, 16))) for n in (6, 200))
    scores, indices = nearest(queries, gallery, 10)
    for query, row, found in zip(queries, scores, indices, strict=True):
        products = [float(query @ vector) for vector in gallery]
        best = sorted(range(200), key=lambda i: -products[i])[:10]
        assert found.tolist() == best
        assert row.tolist() == pytest.approx([products[i] for i in best], abs=2e-6)


def test_an_empty_gallery_and_no_queries_give_nothing():
    some, none = np.ones((2, 3), np.float32), np.empty((0, 3), np.float32)
    assert [part.shape for part in nearest(some, none, 5)] == [(2, 0), (2, 0)]
    assert [part.shape for part in nearest(none, some, 5)] == [(0, 2), (0, 2)]


def test_what_cannot_be_searched_is_refused():
    some = np.ones((2, 3), np.float32)
    with pytest.raises(DataError, match="same number of columns"):
        nearest(some, np.ones((2, 4), np.float32), 1)
    with pytest.raises(DataError, match="k: must be positive"):
        nearest(some, some, 0)
    with pytest.raises(NonFiniteError, match="rows 0 to 1 of the gallery"):
        nearest(some, np.array([[1, 1, 1], [1, np.nan, 1]], np.float32), 1)


floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=8))
def test_directions_are_those_of_torch(rows):
    ours, theirs = directions(np.array(rows, np.float32)), torch_directions(torch.tensor(rows))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 8e37])
def test_very_long_and_very_short_vectors_have_a_direction(scale):
    vectors = np.array([[3, 4], [0, 0]], np.float32) * np.float32(scale)
    if scale == 1e-44:  # few digits are left
        assert np.linalg.norm(directions(vectors)[0]) == pytest.approx(1)
    else:
        np.testing.assert_allclose(directions(vectors), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert directions(vectors)[1].tolist() == [0, 0]


@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20))
def test_scores_are_those_of_torch(products):
    ours = cosine(np.array(products, np.float32))
    assert ours.tolist() == torch_cosine(torch.tensor(products)).tolist()


@pytest.mark.parametrize("given", [[["a"]], [[1j]], None, [[1], [1, 2]]])
def test_what_is_no_vector_is_refused(given):
    with pytest.raises(DataError, match="embeddings: are no real numbers"):
        directions(given)
