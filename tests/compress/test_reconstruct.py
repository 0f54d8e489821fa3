"""Reconstruction by least squares."""

from __future__ import annotations

import copy

import pytest
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


def test_the_combination_does_not_depend_on_the_scale_of_the_channels() -> None:
    rows = torch.randn(500, 4, dtype=torch.float64)
    moments_of = rows.T @ rows
    torch.testing.assert_close(combination(1e-9 * moments_of, CUT), combination(moments_of, CUT))


def test_channels_that_are_always_zero_do_no_harm() -> None:
    found = combination(torch.zeros(4, 4, dtype=torch.float64), CUT)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("side", "step"), [(12, 1), (16, 1), (23, 2), (32, 4), (40, 6)])
def test_of_large_maps_every_so_many_positions_count(side: int, step: int) -> None:
    """A batch of 8 has 8 * side * side positions, of which 2,048 to 4,096 count."""
    net = nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 1)).eval()
    batches = [torch.randn(8, 3, side, side) for _ in range(2)]
    found = moments(net, ["1"], batches)
    rows = [b.movedim(1, -1).flatten(0, -2)[::step].double() for b in batches]
    torch.testing.assert_close(found["1"], sum(one.T @ one for one in rows))
    assert step == 1 or 2048 <= len(rows[0]) < 4096


def test_a_linear_layer_reads_its_last_axis() -> None:
    net = nn.Sequential(nn.Identity(), nn.Linear(4, 2)).eval()
    images = torch.randn(3, 5, 4)
    rows = images.flatten(0, 1).double()
    torch.testing.assert_close(moments(net, ["1"], [images])["1"], rows.T @ rows)


def test_the_network_is_as_before_after_its_channels_were_measured() -> None:
    net = redundant().train()
    moments(net, ["0", "1"], [torch.randn(2, 3, 8, 8)])
    assert net.training and not any(m._forward_pre_hooks for m in net.modules())
