"""The operations of layers, against torch's own counter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import siamkit
from siamkit.compress.costs import costs_of
from siamkit.compress.dependencies import Dependencies
from siamkit.engine.flops import count_flops

pytest.importorskip("torch_pruning")


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_vit"])
def test_what_is_left_is_predicted_to_the_operation(name: str) -> None:
    net = siamkit.create_model(name, pretrained=False).backbone.eval()
    images = torch.randn(2, 3, *net.preprocessing.size)
    total = count_flops(net, None, images).forward
    found = Dependencies(net, images)
    costs = costs_of(net, images, total)
    assert costs.after(found.groups, {}) == total
    removed = {group.name: range(0, group.size, 3) for group in found.groups}
    pruned = copy.deepcopy(net)
    found.without(removed).apply(pruned, "a test")
    counted = count_flops(pruned, None, images).forward
    assert costs.after(found.groups, removed) == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 8, 4, stride=2),
        nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8),
        nn.Conv2d(8, 8, 3, stride=2, groups=4),
    ],
)
def test_layers_of_every_kind_cost_what_torch_counts(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 4, 3)).eval()
    images = torch.randn(2, 3, 16, 16)
    costs = costs_of(net, images, 0.0)
    assert sum(costs.layers.values()) == count_flops(net, None, images).forward


def test_counting_leaves_the_network_as_it_is() -> None:
    net = siamkit.create_model("timm:test_resnet", pretrained=False).backbone.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    costs_of(net, torch.randn(2, 3, 32, 32), 1.0)
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
