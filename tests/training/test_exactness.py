"""The plans under which forward passes may be smaller, and activations recomputed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.config import TrainConfig
from siamkit.errors import ConfigError
from siamkit.freezing import FreezeController, FreezePlan, Phase
from siamkit.training.exactness import obstacle, obstacle_to_recomputing, require_exact


class Net(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).mean((2, 3))


def controller(norm: nn.Module, head: str = "linear") -> FreezeController:
    torch.manual_seed(0)
    net = siamkit.create_model(Net(norm), head=head, image_size=16)
    return FreezeController(net, net.stages())


def plan(controlled: FreezeController, norm: str, trains: str = "all") -> FreezePlan:
    names = [s.name for s in controlled.stages if trains == "all" or s.name == trains]
    return FreezePlan.of(controlled.stages, names, norm=norm)  # type: ignore[arg-type]


BATCH = nn.BatchNorm2d(4)
WITHOUT = nn.BatchNorm2d(4, track_running_stats=False)
INSTANCE = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
LAYER = nn.GroupNorm(1, 4)


@pytest.mark.parametrize(
    ("norm", "mode", "head", "trains", "splits", "recomputes"),
    [
        (BATCH, "train", "linear", "all", False, False),
        (BATCH, "affine", "linear", "all", True, True),
        (BATCH, "frozen", "linear", "all", True, True),
        (BATCH, "train", "linear", "head", True, True),
        (BATCH, "affine", "bnneck", "all", False, True),
        (WITHOUT, "affine", "linear", "all", False, True),
        (INSTANCE, "train", "linear", "all", False, False),
        (INSTANCE, "affine", "linear", "all", True, True),
        (LAYER, "train", "linear", "all", True, True),
    ],
)
def test_what_the_norm_layers_of_a_plan_forbid(
    norm: nn.Module, mode: str, head: str, trains: str, splits: bool, recomputes: bool
) -> None:
    controlled = controller(norm, head)
    given = plan(controlled, mode, trains)
    assert (obstacle(controlled, given) is None) is splits
    assert (obstacle_to_recomputing(controlled, given) is None) is recomputes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch": 8}, r"not possible in epoch 3: the norm layer backbone\S*norm would use"),
        ({"grad_checkpointing": True}, "recomputed in epoch 3: the norm layer .* image twice"),
        ({"micro_batch": 8, "accumulation": "naive", "images_per_class": 2}, None),
        ({"micro_batch": "auto"}, None),
        ({}, None),
    ],
)
def test_only_what_is_asked_for_is_refused(settings: dict[str, Any], message: str | None) -> None:
    controlled = controller(BATCH)
    phases = [Phase(0, 2, plan(controlled, "affine")), Phase(2, 4, plan(controlled, "train"))]
    train = TrainConfig(**settings)
    if message is None:
        require_exact(train, controlled, phases)
        return
    with pytest.raises(ConfigError, match=message):
        require_exact(train, controlled, phases)
