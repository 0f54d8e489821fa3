"""Directions of embeddings, of any length."""

import pytest
import torch
import torch.nn.functional as F

import siamkit
from siamkit.errors import DataError
from siamkit.evaluation.cosine import directions


@pytest.fixture
def vectors():
    return torch.randn(100, 24, generator=torch.Generator().manual_seed(0))


def test_usual_lengths_are_normalised_as_torch_does(vectors):
    assert torch.equal(directions(vectors * 7.3), F.normalize(vectors * 7.3, dim=1))


@pytest.mark.parametrize("exponent", [-100, -70, 60, 120])
def test_the_length_changes_no_bit_of_a_direction(vectors, exponent):
    assert torch.equal(directions(vectors * 2.0**exponent), directions(vectors))
    far = vectors.double() * 2.0 ** (7 * exponent)
    assert torch.equal(directions(far), directions(vectors))


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden():
    assert directions(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]
    for bad in (torch.nan, torch.inf):
        assert not directions(torch.tensor([[bad, 1.0]])).isfinite().all()
    assert directions(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e20, 1e36])
def test_an_evaluation_does_not_depend_on_the_length_of_embeddings(vectors, scale):
    labels = [number // 4 for number in range(100)]
    found = siamkit.evaluate(embeddings=vectors * scale, labels=labels)
    expected = siamkit.evaluate(embeddings=vectors, labels=labels)
    assert found["retrieval"] == expected["retrieval"]
    assert found["notices"] == expected["notices"]


def test_complex_embeddings_are_refused(vectors):
    with pytest.raises(DataError, match=r"must be real numbers, got 'torch\.complex64'"):
        siamkit.evaluate(embeddings=torch.complex(vectors, vectors), labels=list(range(100)))
