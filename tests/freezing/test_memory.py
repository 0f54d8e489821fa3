from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit import api
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.memory import saved_activations, training_memory
from siamkit.interfaces import FreezePlan


class Probe(nn.Module):
    """A network for whose backward pass autograd saves the input only: y = x * w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count += 1
        return images * self.w


def test_what_autograd_saves_is_counted_and_parameters_are_not() -> None:
    assert saved_activations(Probe(), torch.randn(2, 3, 4, 4)) == 2 * 3 * 4 * 4 * 4


def test_nothing_is_saved_where_nothing_trains() -> None:
    net = Probe()
    net.w.requires_grad_(False)
    assert saved_activations(net, torch.randn(2, 3, 4, 4)) == 0


def test_a_measurement_leaves_buffers_and_mode_alone() -> None:
    net = Probe().eval()
    saved_activations(net, torch.randn(2, 3))
    assert net.count == 0 and not net.training


@pytest.mark.parametrize("backbone", ["timm:resnet10t", "timm:nf_resnet26", "timm:test_vit"])
def test_the_estimate_for_a_batch_is_what_a_forward_of_it_saves(backbone: str) -> None:
    net = api.create_model(backbone, pretrained=False, head={"name": "mlp", "dim": 8})
    size = net.backbone.preprocessing.size if backbone.endswith("vit") else (64, 64)
    controller = FreezeController(net, net.stages())
    plan = FreezePlan.of(controller.stages, [controller.stages[-2].name])
    controller.apply(plan)
    estimate = training_memory(net, plan, torch.randn(4, 3, *size), 9, 2)
    assert estimate.activations == saved_activations(net, torch.randn(9, 3, *size))


def test_gradients_and_state_are_those_of_what_trains() -> None:
    net = api.create_model("timm:resnet10t", pretrained=False, head={"name": "linear", "dim": 2})
    controller = FreezeController(net, net.stages())
    plan = FreezePlan.of(controller.stages, [])
    controller.apply(plan)
    memory = training_memory(net, plan, torch.randn(4, 3, 32, 32), 2, 2)
    head = sum(p.numel() for p in net.head.parameters()) * 4
    assert (memory.gradients, memory.optimizer) == (head, 2 * head)
    parts = memory.weights + memory.gradients + memory.optimizer + memory.activations
    assert memory.to_json()["total"] == parts
