"""Directions of embeddings of any length, and scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.errors import DataError
from siamkit.portable.cosine import STEPS, cosine, directions, pair_cosines, steps


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((100, 24), dtype=np.float32)


def test_usual_lengths_are_normalised_as_torch_does(vectors):
    expected = F.normalize(torch.from_numpy(vectors), dim=1).numpy()
    np.testing.assert_allclose(directions(vectors * np.float32(7.3)), expected, atol=2e-7)


@pytest.mark.parametrize("exponent", [-100, -70, 60, 120])
def test_the_length_changes_no_bit_of_a_direction(vectors, exponent):
    expected = directions(vectors)
    np.testing.assert_array_equal(directions(vectors * np.float32(2.0**exponent)), expected)
    far = vectors.astype(np.float64) * 2.0 ** (7 * exponent)
    np.testing.assert_array_equal(directions(far), expected)


@pytest.mark.parametrize("pairs", [0, 1, 3, 7])
def test_scores_of_pairs_are_their_cosines_whatever_is_computed_at_once(
    monkeypatch, vectors, pairs
):
    monkeypatch.setattr("siamkit.portable.cosine._PAIRS", 3)
    first, second = np.arange(pairs), 10 + 2 * np.arange(pairs)
    a, b = (torch.from_numpy(vectors[side]) for side in (first, second))
    found = pair_cosines(7.3 * vectors, first, second)
    np.testing.assert_allclose(found, F.cosine_similarity(a, b).numpy(), atol=1e-6)


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden():
    assert directions(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
    for bad in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(directions([[bad, 1.0]])).all()
    assert directions(np.empty((0, 3))).shape == (0, 3)


floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@settings(deadline=None)
@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=8))
def test_directions_are_those_of_long_floats(rows):
    wide = np.array(rows, np.float32).astype(np.float64)
    expected = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(directions(rows), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 8e37])
def test_very_long_and_very_short_vectors_have_a_direction(scale):
    vectors = np.array([[3, 4], [0, 0]], np.float32) * np.float32(scale)
    if scale == 1e-44:  # few digits are left
        assert np.linalg.norm(directions(vectors)[0]) == pytest.approx(1)
    else:
        np.testing.assert_allclose(directions(vectors), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert directions(vectors)[1].tolist() == [0, 0]


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_a_tensor_has_the_directions_of_its_values(kind):
    values = torch.tensor([[3, 4], [0, -2]]).to(kind)
    if kind.is_floating_point:
        values.requires_grad_()
    np.testing.assert_allclose(directions(values), [[0.6, 0.8], [0, -1]], rtol=1e-6)


@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20))
def test_scores_are_whole_steps_within_one(products):
    given = np.array(products, np.float32)
    expected = [min(max(round(float(p) * STEPS) / STEPS, -1), 1) for p in given]
    assert cosine(given).tolist() == expected
    assert given.tolist() == np.array(products, np.float32).tolist(), "the products stay"


def test_a_step_is_about_a_millionth():
    """An index with scores of other steps would rank other images first."""
    values = np.array([0.5, 0.5 + 2.0**-20, 0.5 + 2.0**-22], np.float32)
    assert cosine(values).tolist() == [0.5, 0.5 + 2.0**-20, 0.5]


def test_infinity_has_the_largest_score_and_stays_infinite_in_steps():
    given = np.array([np.inf, -np.inf], np.float32)
    assert cosine(given).tolist() == [1, -1] and steps(given).tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("given", [[["a"]], [[1j]], None, [[1], [1, 2]]])
def test_what_is_no_vector_is_refused(given):
    with pytest.raises(DataError, match="embeddings: are no real numbers"):
        directions(given)
