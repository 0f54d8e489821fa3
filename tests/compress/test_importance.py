"""The importance of channels against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.compress.dependencies import Dependencies
from siamkit.compress.importance import activation, readers, taylor
from siamkit.compress.layers import by_input
from siamkit.compress.reconstruct import moments

pytest.importorskip("torch_pruning")


@pytest.fixture
def dependencies() -> Dependencies:
    torch.manual_seed(0)
    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    return Dependencies(net.backbone, torch.randn(2, 3, 32, 32))


def losses(count: int) -> list:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(count)]

    def of(images: Tensor):
        return lambda net: net(images).square().mean()

    return [of(images) for images in batches]


def test_taylor_is_the_change_of_the_loss_when_readers_ignore_a_channel(
    dependencies: Dependencies,
) -> None:
    batches = losses(2)
    found = taylor(dependencies, (loss(dependencies.backbone) for loss in batches))
    group = dependencies.groups[0]
    for channel in range(0, group.size, 37):
        wanted = 0.0
        for loss in batches:
            # The derivative along the weights of every reader, by a finite difference.
            step, values = 1e-3, []
            for factor in (1 - step, 1 + step):
                kept = {}
                with torch.no_grad():
                    for member in group.members:
                        if member.side == "reads":
                            weight = dependencies.backbone.get_submodule(member.layer).weight
                            kept[member.layer] = weight.clone()
                            at = [p for p, c in zip(member.places, member.channels, strict=True)
                                  if c == channel]  # fmt: skip
                            weight[:, at] *= factor
                    values.append(float(loss(dependencies.backbone).double()))
                    for name, weight in kept.items():
                        dependencies.backbone.get_submodule(name).weight.copy_(weight)
            wanted += ((values[1] - values[0]) / (2 * step)) ** 2
        assert found[group.name][channel] == pytest.approx(wanted, rel=0.05, abs=1e-9)


def test_a_loss_without_gradient_gives_no_importance(dependencies: Dependencies) -> None:
    found = taylor(dependencies, [dependencies.backbone(torch.zeros(2, 3, 32, 32)).sum() * 0])
    assert all(value == 0 for values in found.values() for value in values)


def test_a_batch_without_gradient_does_not_end_the_measurement(dependencies: Dependencies) -> None:
    net, images = dependencies.backbone, torch.randn(2, 3, 32, 32)
    alone = taylor(dependencies, [net(images).square().mean()])
    with torch.no_grad():
        nothing = net(images).sum()
    assert taylor(dependencies, [nothing, net(images).square().mean()]) == alone


@pytest.mark.parametrize(("scale", "total"), [(1e-6, 1.0), (0.0, 0.0)])
def test_shares_do_not_depend_on_the_scale_and_what_reads_zeros_has_none(
    dependencies: Dependencies, scale: float, total: float
) -> None:
    group = next(g for g in dependencies.groups if len(g.members) == 3)
    found = {
        name: scale * torch.eye(len(by_input(dependencies.backbone.get_submodule(name)))).double()
        for name in readers(dependencies.groups)
    }
    assert sum(activation(dependencies, found)[group.name]) == pytest.approx(total)


def test_activation_is_the_share_in_the_output_of_the_layer_that_reads(
    dependencies: Dependencies,
) -> None:
    group = next(g for g in dependencies.groups if len(g.members) == 3)
    (name,) = readers([group])
    layer = dependencies.backbone.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    with torch.no_grad():
        layer.weight[:, 3] = 0
        layer.weight[:, 5] *= 100
    images = [torch.randn(4, 3, 32, 32)]
    found = moments(dependencies.backbone, readers(dependencies.groups), images)
    values = activation(dependencies, found)[group.name]
    assert values[3] == 0 == min(values) and values[5] == max(values) > 0.9
    assert sum(values) == pytest.approx(1)
