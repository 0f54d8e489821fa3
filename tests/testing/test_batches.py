"""Batches for losses, and the check of a loss's value and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from siamkit.interfaces import Pairs, Triplets
from siamkit.testing.batches import Batches, backward, same_tuples, value_of
from siamkit.testing.common import Expect, NotConforming
from siamkit.testing.pulls import _turned

EXPECT = Expect("x")


@pytest.mark.parametrize("views", [1, 2])
def test_a_batch_has_all_first_views_then_the_second(views: int) -> None:
    batch = Batches(dim=5, views=views)
    x, labels = batch(torch.tensor([0, 1, 1]))
    assert x.shape == (3 * views, 5) and labels.tolist() == [0, 1, 1] * views
    assert x.requires_grad and torch.allclose(x.norm(dim=1), torch.ones(3 * views))
    assert not torch.equal(x[0], x[1])
    alike, _ = batch(labels, same=True)
    assert alike.requires_grad and torch.allclose(alike, torch.full_like(alike, 5**-0.5))
    order = batch.order(3)
    assert sorted(order.tolist()) == list(range(3 * views))
    for view in range(views):
        assert torch.equal(order[3 * view : 3 * view + 3], order[:3] + 3 * view)


@pytest.mark.parametrize("value", [torch.zeros(1), 0.0, torch.tensor(torch.nan), None])
def test_a_loss_is_a_finite_scalar(value: Any) -> None:
    with pytest.raises(NotConforming, match=r"expected a (scalar tensor|finite value)"):
        value_of(lambda *_: value, torch.ones(2, 2), torch.ones(2), None, EXPECT)
    good = torch.tensor(1.0)
    assert value_of(lambda *_: good, torch.ones(2, 2), None, None, EXPECT) is good


def test_a_loss_gets_its_tuples_only_where_there_are_some() -> None:
    given: list[int] = []

    def loss(*args: Any) -> Tensor:
        given.append(len(args))
        return torch.tensor(0.0)

    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    for tuples in (None, pairs):
        value_of(loss, torch.ones(2, 2), None, tuples, EXPECT)
    assert given == [2, 3]


def test_a_value_must_be_connected_to_the_embeddings() -> None:
    x, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert backward((3 * x).sum(), x, EXPECT).tolist() == [3, 3]
    assert backward((2 * x).sum(), x, EXPECT).tolist() == [2, 2], "not added to the one before"
    for value in (torch.tensor(1.0), other.sum()):
        with pytest.raises(NotConforming, match="a value connected to the embeddings"):
            backward(value, x, EXPECT)
    with pytest.raises(NotConforming, match="finite gradients"):
        backward(torch.sqrt(x - 1).sum(), x, EXPECT)


def test_tuples_are_the_same_if_all_their_tensors_are() -> None:
    one, two = torch.tensor([0]), torch.tensor([1])
    assert same_tuples(Triplets(one, two, one), Triplets(one.clone(), two, one))
    assert not same_tuples(Triplets(one, two, one), Triplets(one, two, two))
    assert not same_tuples(Pairs(one, two, one > 0), Pairs(one, two, two > 0))


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_vectors_are_turned_by_an_angle(angle: float) -> None:
    x = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    turned = _turned(x, angle)
    assert torch.allclose(turned.norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose((x * turned).sum(1), torch.tensor(angle).cos(), atol=1e-5)
