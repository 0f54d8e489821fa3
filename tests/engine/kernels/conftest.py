from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn


class _Reached(Exception):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class CutNet(nn.Module):
    """Runs a network up to a module, which it leaves by an exception."""

    def __init__(self, net: nn.Module, boundary: str = "") -> None:
        super().__init__()
        self.net = net
        self.boundary = boundary

    def forward(self, images: Tensor) -> Tensor:
        def leave(module: nn.Module, args: Any, output: Tensor) -> None:
            raise _Reached(output)

        handle = self.net.get_submodule(self.boundary).register_forward_hook(leave)
        try:
            self.net(images)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise AssertionError("the boundary is never reached")


def shake(net: nn.Module) -> None:
    """Give norms the statistics and layer scales the sizes that trained networks have."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
        for name in ("gamma", "gamma1", "gamma2"):
            if isinstance(scale := getattr(module, name, None), nn.Parameter):
                nn.init.constant_(scale, 0.5)


@pytest.fixture
def cut() -> Callable[..., CutNet]:
    """A function that returns a network, or a timm model by name, cut at a module, in eval."""

    def make(net: nn.Module | str, boundary: str = "") -> CutNet:
        torch.manual_seed(0)
        if isinstance(net, str):
            net = timm.create_model(net, pretrained=False, num_classes=0)
        shake(net)
        return CutNet(net, boundary).eval()

    return make


@pytest.fixture
def small(cut: Callable[..., CutNet]) -> CutNet:
    """A small network with two blocks before its boundary, and a part after it that trains."""
    prefix = cut(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        boundary="5",
    )  # fmt: skip
    for name, parameter in prefix.net.named_parameters():
        parameter.requires_grad_(name.startswith(("6", "7")))
    prefix.net[7].train()
    return prefix


@pytest.fixture
def images() -> Tensor:
    """Six small pictures' worth of numbers, ``[6, 3, 32, 32]``."""
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
