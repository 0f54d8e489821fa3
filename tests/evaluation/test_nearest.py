"""The largest values of rows, and exact search, compared with sorting everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.errors import DataError, NonFiniteError
from siamkit.evaluation import nearest as search
from siamkit.evaluation.cosine import cosine
from siamkit.evaluation.nearest import exact_search, largest


def sorted_by_numpy(queries: np.ndarray, gallery: np.ndarray, k: int):
    scores = cosine(torch.from_numpy(queries @ gallery.T)).numpy()
    order = np.lexsort((np.broadcast_to(np.arange(len(gallery)), scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, 1), order


def check(queries, gallery, k, given_gallery=None):
    scores, indices = exact_search(queries, gallery if given_gallery is None else given_gallery, k)
    expected = sorted_by_numpy(np.asarray(queries), np.asarray(gallery), k)
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(indices.numpy(), expected[1])
    np.testing.assert_array_equal(scores.numpy(), expected[0])


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
    block=st.sampled_from([40, 64, 128, 192, 1 << 17]),
    at_once=st.sampled_from([1, 3, 512]),
)
def test_it_is_what_sorting_everything_gives(seed, queries, rows, dim, k, block, at_once):
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_MOST_ROWS", block)
        patch.setattr(search, "_MOST_QUERIES", at_once)
        check(small(rng, queries, dim), small(rng, rows, dim), k)


@pytest.mark.parametrize("scores", [1, 64 * 5, 64 * 5 * 3 + 1])
def test_blocks_are_as_large_as_their_scores_may_be(monkeypatch, scores):
    monkeypatch.setattr(search, "_SCORES", scores)
    monkeypatch.setattr(search, "_ALIGNED", 1)
    rng = np.random.default_rng(0)
    check(small(rng, 5, 3), small(rng, 1000, 3), 20)


def test_of_equal_scores_the_first_come_first():
    gallery = np.ones((1000, 2), dtype=np.float32)
    assert exact_search(gallery[:1], gallery, 130)[1].tolist() == [list(range(130))]


def test_which_of_equally_similar_vectors_are_among_the_first_does_not_depend_on_rounding():
    gallery = np.full((1000, 1), 1 - 2**-24, dtype=np.float32)
    gallery[500:] = 1  # larger, but not in the score
    found = exact_search(np.ones((1, 1), np.float32), gallery, 3)
    assert found[0].tolist() == [[1, 1, 1]] and found[1].tolist() == [[0, 1, 2]]


def test_minus_zero_is_zero():
    gallery = np.array([[0.0], [-0.0], [0.0], [-1.0], [-0.0]] * 50, dtype=np.float32)
    expected = [i for i in range(250) if i % 5 != 3][:100]
    assert exact_search(np.ones((1, 1), np.float32), gallery, 100)[1].tolist() == [expected]


def test_all_scores_negative():
    rng = np.random.default_rng(1)
    check(small(rng, 4, 3, 1, 4), small(rng, 300, 3, -3, 0), 70)


def test_infinite_scores_have_an_order():
    gallery = np.array([[0], [-np.inf], [np.inf], [1]] * 40, dtype=np.float32)
    check(np.ones((1, 1), np.float32), gallery, 160)


def test_a_memory_map_a_view_a_tensor_and_other_types(tmp_path):
    rng = np.random.default_rng(2)
    gallery, queries = small(rng, 500, 4), small(rng, 3, 4)
    np.save(tmp_path / "gallery.npy", gallery)
    wide = np.repeat(gallery, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    for other in (
        np.load(tmp_path / "gallery.npy", mmap_mode="r"), wide, np.asfortranarray(gallery),
        gallery[::-1][::-1], torch.from_numpy(gallery), torch.from_numpy(gallery.T.copy()).T,
        gallery.astype(np.float64), torch.from_numpy(gallery).half().requires_grad_(),
    ):  # fmt: skip
        check(queries, gallery, 12, other)


@pytest.mark.parametrize("row", [0, 63, 64, 199])
def test_nan_is_refused_wherever_it_is(row):
    gallery = np.ones((200, 2), dtype=np.float32)
    gallery[row, 1] = np.nan
    with pytest.raises(NonFiniteError, match="rows 0 to 199"):
        exact_search(np.ones((1, 2), np.float32), gallery, 5)
    with pytest.raises(NonFiniteError):
        exact_search(gallery[[row]], np.ones((200, 2), np.float32), 5)


@pytest.mark.parametrize("shapes", [((2, 3), (5, 4)), ((3,), (5, 3)), ((2, 3), (5, 3, 1))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(DataError, match="matrices with the same number of columns"):
        exact_search(torch.ones(shapes[0]), torch.ones(shapes[1]), 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k):
    with pytest.raises(DataError, match="positive"):
        exact_search(torch.ones(1, 2), torch.ones(3, 2), k)


# --- the largest of each row ---


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 1500), st.integers(1, 60), st.integers(0, 10**6))
def test_the_largest_are_those_of_a_stable_sort(rows, columns, count, seed):
    count = min(count, columns)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-50, 50, (rows, columns), generator=generator).float()  # many are equal
    values[:, seed % columns] = -torch.inf
    expected = values.sort(dim=1, descending=True, stable=True)
    found, at = largest(values, count)
    assert torch.equal(found, expected.values[:, :count])
    assert torch.equal(at, expected.indices[:, :count])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 1500), st.integers(1, 60), st.integers(0, 10**6))
def test_nothing_above_the_bound_is_missed(rows, columns, count, seed):
    count = min(count, columns)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-50, 50, (rows, columns), generator=generator).float()
    above = torch.randint(-60, 60, (rows,), generator=generator).float()
    expected = values.sort(dim=1, descending=True, stable=True)
    found, at = largest(values, count, above=above)
    for row in range(rows):
        wanted = int((expected.values[row, :count] > above[row]).sum())
        assert torch.equal(found[row, :wanted], expected.values[row, :wanted])
        assert torch.equal(at[row, :wanted], expected.indices[row, :wanted])


def test_distinct_values_have_one_answer_however_long_the_row():
    values = torch.rand(3, 20_011, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for count in (1, 10, 100, 2000):
        assert torch.equal(largest(values, count)[1], values.topk(count).indices)


@pytest.mark.parametrize("column", [0, 500, 1023])
def test_no_value_may_be_nan(column):
    values = torch.rand(2, 1024)
    values[1, column] = torch.nan
    for count in (1, 1000):
        with pytest.raises(NonFiniteError, match="similarities"):
            largest(values, count, where="similarities")
