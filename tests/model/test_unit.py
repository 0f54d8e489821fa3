"""Unit vectors: equal to those of torch, but their gradient is always finite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from siamkit.model.unit import unit


@given(st.integers(0, 1000), st.floats(-8, 8), st.integers(1, 5), st.integers(1, 9))
def test_it_is_torchs_normalisation_to_the_bit(seed, scale, rows, width):
    generator = torch.Generator().manual_seed(seed)
    x = 10**scale * (torch.randn(rows, width, generator=generator) + 3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    pull = torch.randn(rows, width, generator=generator)
    one, other = unit(ours), F.normalize(theirs, dim=-1)
    assert torch.equal(one, other)
    one.backward(pull)
    other.backward(pull)
    assert torch.equal(ours.grad, theirs.grad)


def test_a_vector_of_zeros_stays_zeros_and_gets_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    made = unit(x)
    assert made.tolist() == [[0, 0], [torch.tensor(0.6).item(), torch.tensor(0.8).item()]]
    # torch's own normalisation of the first row of the loss: infinity.
    made.mul(1e30).sum().backward()
    assert torch.isfinite(x.grad).all() and not x.grad[0].any() and x.grad[1].any()


def test_a_vector_that_is_not_finite_stays_so():
    assert unit(torch.tensor([[float("nan"), 1.0]])).isnan().all()
    assert unit(torch.tensor([[float("inf"), 1.0]])).isnan().any()
