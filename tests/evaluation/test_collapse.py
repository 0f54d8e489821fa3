"""Collapsed embeddings are described in words."""

from __future__ import annotations

import numpy as np
import pytest

from siamkit.data.images import image_set_of
from siamkit.evaluation.collapse import collapse, mean_cosine
from siamkit.evaluation.summary import summarize
from siamkit.portable.cosine import directions


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_the_mean_cosine_is_that_of_different_vectors():
    vectors = directions(normal(7, 3))
    among = vectors.astype(float) @ vectors.astype(float).T
    expected = (among.sum() - among.trace()) / 42
    assert mean_cosine(vectors) == pytest.approx(float(expected))
    assert mean_cosine(vectors[:1]) == 0


def test_different_embeddings_are_no_collapse():
    assert collapse(normal(20, 8)) is None
    assert collapse(abs(normal(20, 8))) is None  # a ReLU's, all in one corner
    assert collapse(normal(1, 8)) is None


def test_equal_embeddings_and_zeros_are_told():
    near = normal(1, 8, seed=1) + 1e-4 * normal(20, 8)
    text = collapse(near)
    assert text is not None and "have collapsed" in text and "cosine similarity 1.00000" in text
    some = normal(20, 8)
    some[:3] = 0
    assert (collapse(some) or "").startswith("3 of 20 embeddings consist of zeros")
    found = summarize(near, image_set_of([f"class {i // 4}" for i in range(20)]))
    assert text in found["notices"]
