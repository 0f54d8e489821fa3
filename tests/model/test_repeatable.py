"""A module whose output in eval mode depends on chance is refused where it is built."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamkit.errors import PluginError
from siamkit.interfaces import Preprocessing
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.heads import as_head
from siamkit.model.repeatable import require_repeatable

SMALL = Preprocessing(size=(32, 32))
EXAMPLE = torch.zeros(1, 3, 32, 32)

RANDOM: dict[str, Any] = {
    "torch": lambda x: F.dropout(x, 0.5),
    "numpy": lambda x: x * float(np.random.rand()),
    "python": lambda x: x + random.random(),
}


class Odd(nn.Module):
    def __init__(self, layer: nn.Module, change: Any) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.layer(inputs))


@pytest.mark.parametrize("change", RANDOM.values(), ids=RANDOM)
def test_a_backbone_whose_features_depend_on_chance_is_refused(change: Any) -> None:
    with pytest.raises(PluginError, match=r"the same features for the same images.*self\.training"):
        WrappedBackbone(Odd(nn.Conv2d(3, 8, 3, bias=False), change), SMALL)


@pytest.mark.parametrize("change", RANDOM.values(), ids=RANDOM)
def test_a_head_whose_embeddings_depend_on_chance_is_refused(change: Any) -> None:
    with pytest.raises(PluginError, match=r"^mine: must give the same embeddings"):
        as_head(Odd(nn.Linear(8, 4, bias=False), change), 8, "mine")


def test_random_numbers_without_an_effect_are_no_fault() -> None:
    def drawing(x: Tensor) -> Tensor:
        return x if float(torch.rand(())) < 2 else 2 * x

    assert WrappedBackbone(Odd(nn.Conv2d(3, 8, 3), drawing), SMALL).embedding_dim == 8


def test_a_module_without_random_numbers_runs_once() -> None:
    calls = []

    def run(images: Tensor) -> Tensor:
        calls.append(images)
        return images.mean((2, 3))

    assert require_repeatable(run, EXAMPLE, "features").tolist() == [[0, 0, 0]]
    assert len(calls) == 1


def test_the_trials_leave_the_generators_as_one_forward_does() -> None:
    states = []
    for run in (
        lambda x: x + 0 * torch.rand(()),
        lambda x: require_repeatable(lambda y: y + 0 * torch.rand(()), x, "features"),
    ):
        torch.manual_seed(3)
        run(EXAMPLE)
        states.append(torch.rand(3))
    assert torch.equal(*states)
