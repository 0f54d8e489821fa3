"""Batches of embeddings for the check of losses, and checks of a loss's value and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from siamkit.interfaces import Pairs, Triplets
from siamkit.testing.common import Expect

DIM = 8
"""The default width of the embeddings."""

STOPS = "Training would stop there."
_STUCK = "backward() would fail, or the batch would train nothing."


@dataclass(frozen=True)
class Batches:
    """Makes batches for a loss.

    Attributes:
        dim: The width of the embeddings.
        views: The number of views per image: 2 for a loss that compares two views, else 1.
    """

    dim: int
    views: int

    def __call__(self, labels: Tensor, *, same: bool = False) -> tuple[Tensor, Tensor]:
        """Return embeddings ``[N, dim]`` and labels ``[N]``: all first views, then the second.

        Args:
            labels: The label of each image. N is their number times the number of views.
            same: Whether to make all embeddings equal.
        """
        labels = labels.repeat(self.views)
        if same:
            alike = torch.ones(len(labels), self.dim) / self.dim**0.5
            return alike.requires_grad_(), labels
        return self.embeddings(len(labels)), labels

    def embeddings(self, n: int) -> Tensor:
        """Return random embeddings ``[n, dim]`` of length 1 that require gradients."""
        return nn.functional.normalize(torch.randn(n, self.dim), dim=1).requires_grad_()

    def order(self, images: int) -> Tensor:
        """Return a random order ``[N]`` of a batch, the same for the first and the second views."""
        order = torch.randperm(images)
        return torch.cat([order + images * view for view in range(self.views)])


def value_of(
    loss: Callable[..., Tensor],
    x: Tensor,
    labels: Tensor | None,
    tuples: Pairs | Triplets | None,
    expect: Expect,
) -> Tensor:
    """Check that the loss of a batch is a finite scalar, and return it."""
    with expect.during("in forward", STOPS):
        value = loss(x, labels) if tuples is None else loss(x, labels, tuples)
    shaped = isinstance(value, Tensor) and value.shape == ()
    expect(shaped, "a scalar tensor", value, STOPS)
    expect(bool(value.isfinite()), "a finite value", value.item(), STOPS)
    return value


def backward(value: Tensor, x: Tensor, expect: Expect) -> Tensor:
    """Check that a loss's value is connected to the embeddings ``x``, and return their gradient."""
    connected = "a value connected to the embeddings, also if it is zero"
    expect(value.requires_grad, connected, value, _STUCK)
    x.grad = None
    with expect.during("in backward()", STOPS):
        torch.autograd.backward(value, retain_graph=True)
    if x.grad is None:
        raise expect.failure(connected, "a value without a gradient to the embeddings", _STUCK)
    expect(bool(x.grad.isfinite().all()), "finite gradients", "NaN or infinity",
           "Training would stop with an error about NaN.")  # fmt: skip
    return x.grad


def same_tuples(one: Pairs | Triplets, other: Pairs | Triplets) -> bool:
    """Return whether two sets of tuples are equal."""
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
