"""The trial of smaller forward passes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.training.exactness import TOLERANCE
from siamkit.training.splitting import Splitting, compare, try_splitting


def tried(net: nn.Module, inputs: Tensor) -> Splitting:
    return compare(net, lambda x: net(x.clone()), inputs, TOLERANCE["fp32"], TOLERANCE["fp32"])


def after_linear(made: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), made)


@pytest.mark.parametrize(
    ("images", "asked"),
    [
        (range(5, 9), [5, 6, 7, 8]),
        (range(16), list(range(0, 16, 2))),
        (range(40), list(range(0, 40, 5))),
    ],
)
def test_images_of_several_classes_are_tried_and_may_be_changed_in_place(
    images: range, asked: list[int]
) -> None:
    class Source:
        def batches(self, batches: list[list[int]], view: int) -> Any:
            [indices] = batches
            assert (indices, view) == (asked, 7)
            torch.manual_seed(0)
            yield SimpleNamespace(inputs=torch.randn(len(indices), 3))

    def forward(inputs: Tensor) -> Tensor:
        return inputs.mul_(2).clone()

    train = SimpleNamespace(precision="fp32")
    setup: Any = SimpleNamespace(
        net=nn.Identity(), device=torch.device("cpu"), config=SimpleNamespace(train=train)
    )
    execution: Any = SimpleNamespace(
        sources={"train": Source()}, view=lambda epoch: epoch + 4, forward=forward
    )
    assert try_splitting(setup, execution, 3, images) == Splitting(None, draws=False)


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_image_needs_no_smaller_pass(count: int) -> None:
    assert tried(nn.Linear(3, 4), torch.randn(count, 3)) == Splitting(None, draws=False)


class Does(nn.Module):
    """A module made of a function of the module and its input."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.zeros(()))
        self.center = torch.zeros(4)
        self.random = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def counts(module: nn.Module, x: Tensor) -> Tensor:
    module.count += 1
    return x


def centers(module: nn.Module, x: Tensor) -> Tensor:
    """Follow the mean in an attribute that only counts in eval mode."""
    if module.training:
        module.center = 0.9 * module.center + 0.1 * x.detach().mean(0)
        return x
    return x - module.center


def keeps_the_last(module: nn.Module, x: Tensor) -> Tensor:
    module.center = x.detach().mean(0)
    return x


def ghost_norm(module: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([part - part.mean(0) for part in x.split(2)])


OTHERS, NUMBER = "the other images of its forward pass", "the number of images in its forward pass"


@pytest.mark.parametrize("images", [2, 8])
@pytest.mark.parametrize(
    ("function", "obstacle"),
    [
        (lambda m, x: x - x.mean(0), OTHERS),
        (ghost_norm, OTHERS),
        (lambda m, x: x + x.roll(1, 0), OTHERS),
        (lambda m, x: x + x.flip(0), OTHERS),
        (lambda m, x: x + x[:1], OTHERS),
        (lambda m, x: x + x[-1:], OTHERS),
        (lambda m, x: x * len(x), NUMBER),
        (counts, "changes the buffer 1.count"),
        (centers, "changes the attribute 1.center"),
        (keeps_the_last, "changes the attribute 1.center"),
        (lambda m, x: x + m.random.random(), "when a forward pass is repeated"),
    ],
)
def test_what_forbids_smaller_passes_is_found(
    function: Callable[[nn.Module, Tensor], Tensor], obstacle: str, images: int
) -> None:
    inputs = torch.randn(images, 3)
    plain, dropping = Does(function), nn.Sequential(Does(function), nn.Dropout(0.3))
    found = tried(after_linear(plain), inputs)
    assert obstacle in (found.obstacle or "")
    with_dropout = tried(after_linear(dropping), inputs)
    assert obstacle.replace("1.", "1.0.") in (with_dropout.obstacle or "")


@pytest.mark.parametrize("images", [2, 3, 8])
@pytest.mark.parametrize(
    ("made", "draws"),
    [
        (nn.LayerNorm(4), False),
        (nn.Dropout(0.5), True),
        (Does(lambda m, x: x * torch.from_numpy(np.random.rand(*x.shape)).to(x)), True),
        (Does(lambda m, x: x.mul_(2.0)), False),
        (Does(lambda m, x: x * torch.nan), False),
    ],
    ids=["layer norm", "dropout", "numpy", "in place", "nan"],
)
def test_what_allows_smaller_passes_passes(made: nn.Module, draws: bool, images: int) -> None:
    assert tried(after_linear(made), torch.randn(images, 3)) == Splitting(None, draws)


def test_a_first_pass_may_fill_a_cache() -> None:
    class Filled(nn.Module):
        table: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.arange(4.0)
            return x + self.table

    assert tried(after_linear(Filled()), torch.randn(8, 3)).obstacle is None


def test_the_trial_leaves_nothing_behind() -> None:
    net = after_linear(nn.BatchNorm1d(4)).eval()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    inputs = torch.randn(8, 3)
    torch.set_rng_state(before)
    kept = inputs.clone()
    assert "changes the buffer 1.running_mean" in (tried(net, inputs).obstacle or "")
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(inputs, kept)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and not net.training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "convit_tiny"])
def test_networks_of_timm_without_batch_norm_pass(name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, drop_path_rate=0.1)
    found = tried(net, torch.randn(8, 3, 224, 224))
    assert found == Splitting(None, draws=True)


def test_one_image_cannot_be_split() -> None:
    assert tried(after_linear(nn.Identity()), torch.randn(1, 3)) == Splitting(None)
    assert relative_difference(torch.zeros(0), torch.zeros(0)) == 0.0
