"""The trial of a cut: the outcome of a step, and what counts as a difference."""

from __future__ import annotations

import torch
from torch import nn

from siamkit.engine.trial import step


def test_the_loss_weights_the_values_of_an_output_from_minus_one_to_one() -> None:
    """So values that change places, or all values that move by the same amount, are told apart."""
    net = nn.Linear(1, 3)
    outcome = step(net, net, torch.tensor([[2.0]]), ())
    weights = torch.tensor([-1.0, 0.0, 1.0])
    assert outcome.error is None
    torch.testing.assert_close(outcome.values["the gradient of 'bias'"], weights)
    torch.testing.assert_close(outcome.values["the gradient of 'weight'"], 2 * weights[:, None])
    assert all(parameter.grad is None for parameter in net.parameters())
