"""Pruning groups that were tried, and the refusal of what cannot be pruned."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.compress.dependencies import Dependencies
from siamkit.compress.graph import torch_pruning
from siamkit.errors import ConfigError
from siamkit.model.pruning import Pruning
from siamkit.model.reading import stage_outputs

pytest.importorskip("torch_pruning")


def dependencies(backbone: nn.Module, size: int = 64) -> Dependencies:
    return Dependencies(backbone, torch.randn(2, 3, size, size))


@pytest.mark.parametrize(
    "name",
    [
        "timm:test_resnet",  # additions
        "timm:test_efficientnet",  # depthwise convolutions, squeeze and excitation
        "timm:resnet18",
        pytest.param("timm:densenet121", marks=pytest.mark.slow),  # concatenations
        pytest.param("timm:mobilenetv3_small_050", marks=pytest.mark.slow),
    ],
)
def test_removed_channels_are_as_if_nobody_read_them(name: str) -> None:
    # Dependencies compares the pruned network with the full one that ignores the lost channels.
    torch.manual_seed(0)
    net = siamkit.create_model(name, pretrained=False, image_size=64).backbone
    for module in net.modules():  # statistics that are not all 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = dependencies(net)
    record = found.without({g.name: range(0, g.size, 3) for g in found.groups})
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    smaller = siamkit.create_model(name, pretrained=False, image_size=64).backbone
    Pruning.from_json(record.to_json(), "a test").apply(smaller, "a test")
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in net.parameters())
    assert smaller(torch.randn(2, 3, 64, 64)).shape == (2, net.embedding_dim)


def test_the_width_of_what_the_head_reads_stays() -> None:
    net = siamkit.create_model("timm:resnet18", pretrained=False).backbone.eval()
    reads = ("model.layer2", "model.layer3")
    images = torch.randn(2, 3, 64, 64)
    every = {g.name for g in Dependencies(net, images).groups}
    found = Dependencies(net, images, reads)
    # layer1 and the inner channels of blocks can go, and nothing that layer2 and layer3 give.
    kept = {f"{name}.0.downsample.0" for name in reads}
    assert kept < every and {g.name for g in found.groups} == every - kept
    pruned = copy.deepcopy(net)
    found.without({g.name: range(0, g.size, 2) for g in found.groups}).apply(pruned, "a test")
    before, after = (stage_outputs(one, reads, images) for one in (net, pruned))
    assert [o.shape for o in after] == [o.shape for o in before]


def test_attention_keeps_its_shapes_and_its_mlp_is_pruned() -> None:
    net = siamkit.create_model("timm:test_vit", pretrained=False).backbone
    found = Dependencies(net, torch.randn(2, 3, *net.preprocessing.size))
    assert found.groups
    assert all(".mlp." in member.layer for group in found.groups for member in group.members)


class Rolled(nn.Module):
    """A network that moves each channel to the next place, which no graph of gradients tells.

    Args:
        more: Whether layers follow that can be pruned.
    """

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)
        self.more = nn.Sequential(nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        if not more:
            self.more = nn.Sequential()

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.first(images).relu().roll(1, dims=1))
        features: Tensor = self.more(x).mean((2, 3))
        return features


def rolled(more: bool) -> nn.Module:
    torch.manual_seed(0)
    return siamkit.create_model(Rolled(more), image_size=32).backbone


def test_a_group_that_breaks_the_network_is_left_out() -> None:
    found = dependencies(rolled(more=True), 32)
    assert [group.name.rpartition("model.")[2] for group in found.groups] == ["more.0", "second"]
    record = found.without({group.name: [1, 2] for group in found.groups})
    assert not any(name.endswith("first") for name in record.layers)


def test_a_network_that_breaks_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"no channels .* it fails \(ValueError: removing "):
        dependencies(rolled(more=False), 32)


def test_channels_whose_removal_breaks_the_network_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Dependencies, "_working", lambda self, groups: groups)
    found = dependencies(rolled(more=True), 32)
    with pytest.raises(ConfigError, match=r"cannot prune this network \(\w+: .*\)"):
        found.without({group.name: [1, 2] for group in found.groups})


def test_memory_that_runs_out_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Dependencies, "_check", full)
    with pytest.raises(torch.OutOfMemoryError):
        dependencies(siamkit.create_model("timm:test_resnet", pretrained=False).backbone)


def test_a_network_without_channels_to_remove_is_refused() -> None:
    one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="no channels of the backbone can be removed"):
        dependencies(siamkit.create_model(one, image_size=32).backbone, 32)


def test_pruning_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ConfigError, match=r"pruning needs torch-pruning; pip install 'siamkit\[pr"):
        torch_pruning()
