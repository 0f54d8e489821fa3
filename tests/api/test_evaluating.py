"""Evaluation of embeddings that are given in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import siamkit
from siamkit.errors import DataError

LABELS = [number // 4 for number in range(100)]


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((100, 24), dtype=np.float32)


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e20, 1e36])
def test_an_evaluation_does_not_depend_on_the_length_of_embeddings(
    vectors: np.ndarray, scale: float
) -> None:
    found = siamkit.evaluate(embeddings=vectors * scale, labels=LABELS)
    expected = siamkit.evaluate(embeddings=vectors, labels=LABELS)
    assert found["retrieval"] == expected["retrieval"]
    assert found["notices"] == expected["notices"]


def test_a_tensor_of_any_type_is_evaluated_like_an_array(vectors: np.ndarray) -> None:
    expected = siamkit.evaluate(embeddings=vectors, labels=LABELS)
    tensor = torch.from_numpy(vectors).requires_grad_()
    found = siamkit.evaluate(embeddings=tensor, labels=torch.tensor(LABELS))
    assert found.to_json() == expected.to_json()
    short = siamkit.evaluate(embeddings=tensor.bfloat16(), labels=LABELS)
    assert short["retrieval"]["map@r"] == pytest.approx(expected["retrieval"]["map@r"], abs=0.05)


def test_complex_embeddings_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(DataError, match="are no real numbers, got 'complex64'"):
        siamkit.evaluate(embeddings=vectors + 1j * vectors, labels=LABELS)
