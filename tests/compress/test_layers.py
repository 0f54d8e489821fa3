"""What is left of single layers, against the layers that torch builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from siamkit.compress.layers import Side, by_input, can_shrink, is_dense, shrunk, width
from siamkit.model.pruning import Pruning


@pytest.mark.parametrize(
    ("layer", "lost", "wanted"),
    [
        (nn.Linear(6, 4), {"reads": [0], "writes": [1, 2]}, nn.Linear(5, 2)),
        (nn.Conv2d(6, 4, 3, bias=False), {"reads": [0, 5]}, nn.Conv2d(4, 4, 3, bias=False)),
        (nn.Conv1d(6, 4, 3), {"writes": [3]}, nn.Conv1d(6, 3, 3)),
        (
            nn.ConvTranspose2d(6, 4, 2), {"reads": [0], "writes": [1, 2]},
            nn.ConvTranspose2d(5, 2, 2),
        ),
        (nn.Conv2d(6, 6, 3, groups=6), {"through": [1]}, nn.Conv2d(5, 5, 3, groups=5)),
        (
            nn.ConvTranspose2d(6, 6, 2, groups=6), {"through": [1]},
            nn.ConvTranspose2d(5, 5, 2, groups=5),
        ),
        (nn.BatchNorm2d(6), {"through": [1, 2]}, nn.BatchNorm2d(4)),
        (nn.InstanceNorm2d(6), {"through": [1, 2]}, nn.InstanceNorm2d(4)),
        (nn.PReLU(6), {"through": [5]}, nn.PReLU(5)),
    ],
)  # fmt: skip
def test_a_smaller_layer_is_what_torch_builds_of_that_size(
    layer: nn.Module, lost: dict[Side, list[int]], wanted: nn.Module
) -> None:
    assert can_shrink(layer)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    Pruning({"": shrunk(layer, lost)}).apply(layer, "a test")
    assert repr(layer) == repr(wanted)
    assert {n: v.shape for n, v in layer.state_dict().items()} == {
        n: v.shape for n, v in wanted.state_dict().items()
    }
    for name, values in layer.state_dict().items():
        assert set(values.flatten().tolist()) <= set(before[name].flatten().tolist())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, groups=3),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(12, 6, 3, groups=6),
        nn.GroupNorm(2, 6),
        nn.LayerNorm(6),
        nn.Embedding(6, 6),
        nn.ReLU(),
        weight_norm(nn.Linear(6, 6)),
    ],
)
def test_other_layers_keep_their_channels(layer: nn.Module) -> None:
    assert not can_shrink(layer)


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(6, 4, 3)]
)
def test_a_layer_without_weights_for_a_channel_does_not_read_it(layer: nn.Module) -> None:
    assert is_dense(layer) and width(layer, "reads") == len(by_input(layer)) == 6
    shape = (2, 6) if isinstance(layer, nn.Linear) else (2, 6, 5, 5)
    images = torch.randn(shape)
    with torch.no_grad():
        by_input(layer)[3] = 0
        before = layer(images)
        images[:, 3] = 99
        assert torch.equal(layer(images), before)
    assert by_input(layer, torch.ones_like(layer.weight)).shape == by_input(layer).shape
