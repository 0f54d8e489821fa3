from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.deploy import search
from siamkit.deploy.search import exact_search
from siamkit.errors import DataError, NonFiniteError


def oracle(queries, gallery, k):
    """Every score, sorted by falling score and then by index."""
    scores = (np.float32(queries) @ np.float32(gallery).T) + np.float32(0)
    order = np.stack([np.lexsort((np.arange(len(gallery)), -row)) for row in scores])[:, :k]
    return np.take_along_axis(scores, order, 1), order


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 300), queries=st.integers(1, 9), width=st.integers(1, 3),
    k=st.integers(1, 320), seed=st.integers(0, 1000), scores=st.sampled_from([64, 128, 1 << 21]),
    most=st.sampled_from([1, 3, 512]),
)  # fmt: skip
def test_it_finds_what_sorting_everything_finds(rows, queries, width, k, seed, scores, most):
    rng = np.random.default_rng(seed)
    gallery = rng.integers(-2, 3, (rows, width)).astype(np.float32)
    wanted = rng.integers(-2, 3, (queries, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SCORES", scores)  # blocks of one group and of many
        patch.setattr(search, "_MOST_QUERIES", most)
        found, indices = exact_search(torch.from_numpy(wanted), torch.from_numpy(gallery), k)
    best, order = oracle(wanted, gallery, k)
    assert indices.numpy().tolist() == order.tolist()
    assert found.numpy().tolist() == best.tolist()
    assert (found.dtype, indices.dtype) == (torch.float32, torch.int64)


def test_real_numbers_agree_up_to_rounding():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(5000, 32, generator=generator)
    queries = torch.randn(20, 32, generator=generator)
    found, indices = exact_search(queries, gallery, 10)
    expected = (queries @ gallery.T).topk(10)
    torch.testing.assert_close(found, expected.values)
    assert torch.equal(indices, expected.indices)


def test_minus_zero_is_zero():
    gallery = torch.tensor([[-0.0], [0.0], [-1.0], [1.0]])
    found, indices = exact_search(torch.tensor([[1.0]]), gallery, 4)
    assert indices.tolist() == [[3, 0, 1, 2]]
    assert found.tolist() == [[1, 0, 0, -1]]


def test_arrays_maps_and_views_are_searched_alike(tmp_path: Path):
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(500, 16)).astype(np.float32)
    queries = rng.normal(size=(3, 16)).astype(np.float32)
    np.save(tmp_path / "g.npy", gallery)
    mapped = np.load(tmp_path / "g.npy", mmap_mode="r")
    expected = exact_search(torch.from_numpy(queries), torch.from_numpy(gallery), 5)
    wide = torch.from_numpy(np.repeat(gallery, 2, axis=1))[:, ::2]
    assert not wide.is_contiguous()
    for other in (gallery, mapped, wide, torch.from_numpy(gallery).double()):
        found = exact_search(torch.from_numpy(queries), other, 5)
        assert torch.equal(found[1], expected[1])
    assert torch.equal(exact_search(queries[:, ::1], gallery, 5)[1], expected[1])


def test_no_queries_find_nothing():
    found, indices = exact_search(torch.empty(0, 4), torch.randn(7, 4), 3)
    assert found.shape == indices.shape == (0, 3)


@pytest.mark.parametrize("where", [(0, 0), (63, 1), (64, 0), (99, 1)])
def test_nan_has_no_order(where):
    gallery = torch.randn(100, 2)
    gallery[where] = float("nan")
    with pytest.raises(NonFiniteError, match=r"a score is NaN"):
        exact_search(torch.randn(2, 2), gallery, 3)


@pytest.mark.parametrize("queries, gallery, k", [
    (torch.randn(2, 3), torch.randn(5, 4), 1), (torch.randn(3), torch.randn(5, 3), 1),
    (torch.randn(2, 3), torch.randn(5, 3), 0),
])  # fmt: skip
def test_what_does_not_fit_is_refused(queries, gallery, k):
    with pytest.raises(DataError):
        exact_search(queries, gallery, k)
