"""Reconstruction by least squares."""

from __future__ import annotations

import copy

import torch
from torch import nn

from siamkit.compress.reconstruct import absorb, combination, moments, reading
from siamkit.model.pruning import Cut, PrunedLayer, Pruning


def redundant() -> nn.Sequential:
    """Two layers, in which channel 2 is the sum of channels 0 and 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1))
    with torch.no_grad():
        net[0].weight[2] = net[0].weight[0] + net[0].weight[1]
        net[0].bias.zero_()
    return net.eval()


CUT = Cut(4, (0, 1, 3))
RECORD = Pruning(
    {
        "0": PrunedLayer({"out_channels": 3}, {"weight": (CUT, None, None, None), "bias": (CUT,)}),
        "1": PrunedLayer({"in_channels": 3}, {"weight": (None, CUT, None, None)}),
    }
)


def test_a_channel_that_others_tell_is_lost_without_loss() -> None:
    net = redundant()
    images = [torch.randn(8, 3, 12, 12) for _ in range(4)]
    assert reading(net, RECORD) == {"1": CUT}
    pruned = copy.deepcopy(net)
    RECORD.apply(pruned, "a test")
    apart = (pruned(images[0]) - net(images[0])).abs().max()
    absorb(pruned, net, RECORD, moments(net, ["1"], images))
    left = (pruned(images[0]) - net(images[0])).abs().max()
    assert left < 0.02 * apart


def test_the_combination_is_that_of_least_squares() -> None:
    rows = torch.randn(500, 4, dtype=torch.float64)
    found = combination(rows.T @ rows, CUT)
    wanted = torch.linalg.lstsq(rows[:, [0, 1, 3]], rows[:, [2]]).solution.T
    assert torch.allclose(found, wanted, atol=1e-2)


def test_channels_that_are_always_zero_do_no_harm() -> None:
    found = combination(torch.zeros(4, 4, dtype=torch.float64), CUT)
    assert torch.isfinite(found).all()
