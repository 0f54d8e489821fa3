"""Exact search, and the largest values of rows, compared with sorting everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.errors import DataError, NonFiniteError
from siamkit.portable import nearest as search
from siamkit.portable.cosine import STEPS, cosine, directions, steps
from siamkit.portable.nearest import largest, nearest, ranked


def sorted_by_numpy(queries: np.ndarray, gallery: np.ndarray, k: int):
    scores = cosine(queries @ gallery.T)
    order = np.lexsort((np.broadcast_to(np.arange(len(gallery)), scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, 1), order


def check(queries, gallery, k, given_gallery=None):
    scores, indices = nearest(queries, gallery if given_gallery is None else given_gallery, k)
    expected = sorted_by_numpy(np.asarray(queries), np.asarray(gallery), k)
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


def small(rng, rows, dim, low=-2, high=3):
    """Vectors of few values: their products are exact, and many scores are equal."""
    return rng.integers(low, high, (rows, dim)).astype(np.float32) / 8


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(0, 9),
    rows=st.integers(0, 400) | st.sampled_from([63, 64, 65, 127, 128, 129, 256]),
    dim=st.integers(1, 4),
    k=st.integers(1, 70) | st.just(500),
    products=st.sampled_from([9, 40, 64 * 5, 64 * 5 * 3 + 1, 1 << 22]),
    at_once=st.sampled_from([1, 3, 512]),
)
def test_it_is_what_sorting_everything_gives(seed, queries, rows, dim, k, products, at_once):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_PRODUCTS", products)
        patch.setattr(search, "_MOST_QUERIES", at_once)
        check(small(rng, queries, dim), small(rng, rows, dim), k)


def test_of_equal_scores_the_first_come_first():
    gallery = np.ones((1000, 2), dtype=np.float32)
    assert nearest(gallery[:1], gallery, 130)[1].tolist() == [list(range(130))]


def test_which_of_equally_similar_vectors_are_among_the_first_does_not_depend_on_rounding():
    gallery = np.full((1000, 1), 1 - 2**-24, dtype=np.float32)
    gallery[500:] = 1  # larger, but not in the score
    found = nearest(np.ones((1, 1), np.float32), gallery, 3)
    assert found[0].tolist() == [[1, 1, 1]] and found[1].tolist() == [[0, 1, 2]]


def test_minus_zero_is_zero():
    gallery = np.array([[0.0], [-0.0], [0.0], [-1.0], [-0.0]] * 50, dtype=np.float32)
    expected = [i for i in range(250) if i % 5 != 3][:100]
    assert nearest(np.ones((1, 1), np.float32), gallery, 100)[1].tolist() == [expected]


def test_all_scores_negative():
    rng = np.random.default_rng(1)
    check(small(rng, 4, 3, 1, 4), small(rng, 300, 3, -3, 0), 70)


def test_infinite_scores_have_an_order():
    gallery = np.array([[0], [-np.inf], [np.inf], [1]] * 40, dtype=np.float32)
    scores, indices = nearest(np.ones((1, 1), np.float32), gallery, 160)
    assert (indices % 4).tolist() == [[2] * 40 + [3] * 40 + [0] * 40 + [1] * 40]
    assert scores.tolist() == [[1] * 80 + [0] * 40 + [-1] * 40]


def test_a_memory_map_a_view_and_other_types(tmp_path):
    rng = np.random.default_rng(2)
    gallery, queries = small(rng, 500, 4), small(rng, 3, 4)
    np.save(tmp_path / "gallery.npy", gallery)
    wide = np.repeat(gallery, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    for other in (
        np.load(tmp_path / "gallery.npy", mmap_mode="r"), wide, np.asfortranarray(gallery),
        gallery[::-1][::-1], gallery.astype(np.float64), gallery.astype(np.float16),
    ):  # fmt: skip
        check(queries, gallery, 12, other)


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


@pytest.mark.parametrize("row", [0, 63, 64, 199])
def test_nan_is_refused_wherever_it_is(row):
    gallery = np.ones((200, 2), dtype=np.float32)
    gallery[row, 1] = np.nan
    with pytest.raises(NonFiniteError, match="rows 0 to 199"):
        nearest(np.ones((1, 2), np.float32), gallery, 5)
    with pytest.raises(NonFiniteError):
        nearest(gallery[[row]], np.ones((200, 2), np.float32), 5)


def test_the_block_that_holds_nan_is_told(monkeypatch):
    monkeypatch.setattr(search, "_PRODUCTS", 60)
    gallery = np.ones((200, 2), dtype=np.float32)
    gallery[199, 1] = np.nan
    with pytest.raises(NonFiniteError, match="rows 180 to 199 of the gallery"):
        nearest(np.ones((3, 2), np.float32), gallery, 5)


@pytest.mark.parametrize("shapes", [((2, 3), (5, 4)), ((3,), (5, 3)), ((2, 3), (5, 3, 1))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(DataError, match="matrices with the same number of columns"):
        nearest(np.ones(shapes[0], np.float32), np.ones(shapes[1], np.float32), 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k):
    with pytest.raises(DataError, match="positive"):
        nearest(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), k)


# --- the largest of each row ---


sizes = given(st.integers(1, 4), st.integers(1, 1500), st.integers(1, 60), st.integers(0, 10**6))


def few_values(rows, columns, seed):
    """Values of which many are equal, in whole steps and between them; some are -inf."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-50, 50, (rows, columns)) + rng.uniform(-0.4, 0.4, (rows, columns))
    values[:, seed % columns] = -np.inf
    return (values / STEPS).astype(np.float32)


@settings(deadline=None, max_examples=60)
@sizes
def test_the_ranks_are_those_of_a_stable_sort_of_rounded_products(rows, columns, count, seed):
    count = min(count, columns)
    products = few_values(rows, columns, seed)
    rounded = steps(products)
    expected = np.argsort(-rounded, axis=1, kind="stable")[:, :count]
    found, at = ranked(products, count)
    np.testing.assert_array_equal(at, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(rounded, expected, 1))


@settings(deadline=None, max_examples=60)
@sizes
def test_the_largest_have_the_values_of_a_sort(rows, columns, count, seed):
    count = min(count, columns)
    values = few_values(rows, columns, seed)
    at = largest(values, count)
    assert all(len(set(row)) == count for row in at.tolist())
    found = -np.sort(-np.take_along_axis(values, at, 1), axis=1)
    np.testing.assert_array_equal(found, -np.sort(-values, axis=1)[:, :count])


def test_distinct_values_have_one_answer_however_long_the_row():
    values = np.random.default_rng(0).permutation(3 * 20_011).reshape(3, -1).astype(np.float32)
    for count in (1, 10, 100, 2000):
        expected = np.argsort(-values, axis=1)[:, :count]
        np.testing.assert_array_equal(ranked(values, count)[1], expected)


@pytest.mark.parametrize("column", [0, 500, 1023, 1029])
def test_no_value_may_be_nan(column):
    values = np.random.default_rng(0).random((2, 1030), np.float32)
    values[1, column] = np.nan
    for count in (1, 20, 1000):
        with pytest.raises(NonFiniteError, match="similarities"):
            largest(values, count, where="similarities")
