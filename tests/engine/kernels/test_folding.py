from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from siamkit.engine.kernels import build_kernel, check
from siamkit.engine.kernels.capture import capture
from siamkit.engine.kernels.folding import fold

EXACT = 1e-5

CUTS = [
    ("resnet18d", "layer2", 64),
    ("resnet18d", "", 64),
    ("tf_efficientnet_lite0", "blocks.2", 64),
    ("efficientnet_b0", "blocks.2", 64),
    ("mobilenetv3_small_100", "", 64),
    ("regnety_002", "s2", 64),
    ("densenet121", "features.denseblock1", 64),
    ("repvgg_a0", "stages.1", 64),
    ("ghostnet_100", "blocks.2", 64),
    ("convnext_atto", "stages.1", 64),
    ("mobilevit_xxs", "stages.2", 64),
    ("fastvit_t8", "stages.0", 64),
    ("edgenext_xx_small", "stages.1", 64),
    ("vgg11_bn", "features.10", 64),
    ("vit_tiny_patch16_224", "blocks.1", 224),
    ("deit_tiny_distilled_patch16_224", "blocks.0", 224),
    ("swin_tiny_patch4_window7_224", "layers.0", 224),
    ("xcit_nano_12_p16_224", "blocks.0", 224),
]


@pytest.mark.parametrize(("name", "boundary", "size"), CUTS)
def test_the_folded_graph_computes_what_the_network_computes(
    cut: Callable[..., nn.Module], name: str, boundary: str, size: int
) -> None:
    prefix = cut(name, boundary)
    images = torch.rand(2, 3, size, size) * 2 - 1
    assert check(build_kernel("folded", prefix, images), prefix, images) < EXACT


def test_the_graph_holds_the_prefix_and_nothing_after_it(small: nn.Module) -> None:
    graph = capture(small, torch.rand(2, 3, 32, 32))
    held = {id(tensor) for tensor in [*graph.parameters(), *graph.buffers()]}
    held |= {id(value) for value in vars(graph).values() if isinstance(value, torch.Tensor)}
    assert id(small.net[0].weight) in held, "what the prefix reads is shared, not copied"
    assert not held & {id(p) for p in small.net[6:].parameters()}


@pytest.mark.parametrize(
    ("layers", "folds"),
    [
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], 1),
        ([nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)], 1),
        ([nn.Conv2d(3, 6, 3, groups=3, padding="same"), nn.BatchNorm2d(6, eps=0.1)], 1),
        ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)], 0),
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)], 0),
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)], 0),
    ],
)
def test_only_a_fixed_norm_right_after_a_convolution_is_folded(
    cut: Callable[..., nn.Module], layers: list[nn.Module], folds: int
) -> None:
    prefix = cut(nn.Sequential(*layers))
    images = torch.rand(2, 3, 8, 8)
    graph = capture(prefix, images)
    assert fold(graph) == folds
    torch.testing.assert_close(graph(images), prefix(images))


def test_a_convolution_that_something_else_reads_is_left_alone(
    cut: Callable[..., nn.Module],
) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raw = self.conv(images)
            return raw + self.norm(raw)

    prefix = cut(Branch())
    images = torch.rand(2, 3, 8, 8)
    graph = capture(prefix, images)
    assert fold(graph) == 0
    torch.testing.assert_close(graph(images), prefix(images))


@pytest.mark.parametrize("computed", ["weight", "bias"])
def test_a_convolution_whose_weights_are_computed_is_left_alone(
    cut: Callable[..., nn.Module], computed: str
) -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tensors = {"weight": self.conv.weight, "bias": self.conv.bias}
            tensors[computed] = tensors[computed] - tensors[computed].mean()
            return self.norm(nn.functional.conv2d(images, tensors["weight"], tensors["bias"]))

    prefix = cut(Standardised())
    images = torch.rand(2, 3, 8, 8)
    graph = capture(prefix, images)
    assert fold(graph) == 0
    torch.testing.assert_close(graph(images), prefix(images))


def test_all_weights_are_laid_out_channels_last(cut: Callable[..., nn.Module]) -> None:
    flat = nn.Conv2d(4, 4, 1)  # is channels_last already
    prefix = cut(nn.Sequential(nn.Conv2d(3, 4, 3), flat, nn.Conv2d(4, 4, 3)))
    images = torch.rand(2, 3, 8, 8)
    graph = capture(prefix, images)
    fold(graph)
    weights = [t for t in [*graph.parameters(), *graph.buffers()] if t.ndim == 4]
    assert len(weights) == 3
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    torch.testing.assert_close(graph(images), prefix(images))


def test_a_convolution_shared_by_two_norms_is_folded_into_each(
    cut: Callable[..., nn.Module],
) -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    prefix = cut(nn.Sequential(shared, nn.BatchNorm2d(3), shared, nn.BatchNorm2d(3), shared))
    images = torch.rand(2, 3, 8, 8)
    graph = capture(prefix, images)
    assert fold(graph) == 2
    torch.testing.assert_close(graph(images), prefix(images))


def test_weights_that_were_folded_are_not_kept(small: nn.Module) -> None:
    graph = capture(small, torch.rand(2, 3, 32, 32))
    fold(graph)
    tensors = [*graph.parameters(), *graph.buffers()]
    tensors += [value for value in vars(graph).values() if isinstance(value, torch.Tensor)]
    assert sorted(tuple(t.shape) for t in tensors) == [(8,), (8, 3, 3, 3), (16,), (16, 8, 3, 3)]
