from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import set_reentrant_ckpt
from torch import Tensor, nn

from siamkit.freezing.allocations import Bytes
from siamkit.freezing.memory import Memory
from siamkit.freezing.peak import Costs, Forward, Passes, memory_of_loss, memory_of_step


def step(
    net: nn.Module, example: Tensor, images: int, count: int = 1, losses: int = 1, **costs: int
) -> Memory:
    found = {name: Bytes(size) for name, size in costs.items()}
    return memory_of_step(net, Forward(net, example), Passes(images, count, losses), Costs(**found))


def tensors(*args: Any, **kwargs: Any) -> int:
    """Return the prediction without the share of the CPU's libraries."""
    memory = step(*args, **kwargs)
    return memory.peak - memory.libraries


def test_a_linear_layer_needs_what_can_be_counted_by_hand() -> None:
    net = nn.Linear(100, 50, bias=False)
    weights, inputs, outputs = 4 * 100 * 50, 4 * 8 * 100, 4 * 8 * 50
    found = step(net, torch.zeros(1, 100), 8, state=2 * weights)
    assert (found.weights, found.optimizer) == (weights, 2 * weights)
    # The inputs; the gradients of the output and of the weights. A gradient that is not contiguous
    # is copied when it becomes that of a parameter.
    least = inputs + outputs + weights
    assert least <= found.gradients + found.activations <= least + outputs + weights


def test_what_is_frozen_needs_no_gradient_and_keeps_no_activations() -> None:
    net = timm.create_model("resnet18", num_classes=0)
    images = torch.zeros(1, 3, 64, 64)
    trained = step(net, images, 16)
    net.requires_grad_(False)
    frozen = step(net, images, 16)
    assert frozen.gradients == 0 < trained.gradients
    assert frozen.activations < trained.activations / 2


def test_recomputed_activations_need_less() -> None:
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    kept = tensors(net, torch.zeros(1, 3, 224, 224), 8)
    set_reentrant_ckpt(False)
    net.set_grad_checkpointing(True)
    assert tensors(net, torch.zeros(1, 3, 224, 224), 8) < 0.6 * kept


def test_the_inputs_of_all_passes_wait_and_gradients_exist_from_the_second_on() -> None:
    net = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10))
    example, image = torch.zeros(1, 1000), 4000
    one, two, eight = (step(net, example, 4, count=n) for n in (1, 2, 8))
    assert eight.peak - eight.libraries == two.peak - two.libraries + 6 * 4 * image
    assert two.gradients >= 0.99 * one.weights, "the gradients of one pass, beside another pass"
    several = step(net, example, 4, losses=3)
    assert several.activations < eight.activations, "with a loss of its own, no pass waits"


def test_before_the_last_pass_the_inputs_of_the_others_wait() -> None:
    net = nn.Sequential(nn.Linear(1000, 10), nn.ReLU(), nn.Linear(10, 10))
    # The loss is the peak, while the graph of one pass is alive.
    one, two, three = (
        step(net, torch.zeros(1, 1000), 4, count=count, loss=10**8).activations
        for count in (1, 2, 3)
    )
    assert (two - one, three - two) == (4 * 4 * 1000, 4 * 4 * 1000)


def test_the_loss_counts_while_the_graph_of_a_pass_is_alive() -> None:
    net = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 10))
    example = torch.zeros(1, 10)
    plain = tensors(net, example, 64)
    graph = 2 * 64 * 1000  # half of what the ReLU keeps is enough here
    assert tensors(net, example, 64, loss=10**7) >= 10**7 + graph
    with_own = step(net, example, 64, loss_weights=10**6, loss_gradients=10**6)
    assert with_own.weights == step(net, example, 64).weights + 10**6
    assert with_own.peak - with_own.libraries >= plain + 2 * 10**6


def test_a_large_update_can_be_the_peak() -> None:
    net = nn.Linear(10, 10)
    assert tensors(net, torch.zeros(1, 10), 2, update=10**7) > 10**7


def test_a_part_that_runs_before_counts_while_it_runs() -> None:
    suffix = nn.Linear(4, 4)
    wide = nn.Linear(4, 10_000).requires_grad_(False)

    def prefix(images: Tensor) -> Tensor:
        return wide(images)[:, :4]

    rows = torch.zeros(1, 4)
    alone = memory_of_step(suffix, Forward(suffix, rows), Passes(32), Costs())
    both = nn.ModuleList([suffix, wide])
    forward = Forward(suffix, rows, before=prefix, image=rows)
    live = memory_of_step(both, forward, Passes(32), Costs())
    assert live.activations >= alone.activations + 4 * 32 * 10_000 - 2 * alone.activations


def test_the_network_stays_as_it_was() -> None:
    net = timm.create_model("resnet18", num_classes=0).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    step(net, torch.zeros(1, 3, 32, 32), 4)
    assert not net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
        self.reads = True

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out * 2 if self.reads and float(out.detach().sum()) > 1e9 else out


def test_a_forward_that_reads_values_is_tried_on_few_images() -> None:
    net = ReadsValues()
    found = step(net, torch.zeros(1, 10), 64, count=2)
    net.reads = False
    wanted = step(net, torch.zeros(1, 10), 64, count=2)
    assert found.weights == wanted.weights
    assert found.activations == pytest.approx(wanted.activations, rel=0.05)
    assert all(p.grad is None for p in net.parameters())


def test_a_single_image_is_predicted_though_a_batch_norm_refuses_it() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert step(net, torch.zeros(1, 4), 1) == step(net, torch.zeros(1, 4), 2)


class AllPairs(nn.Module):
    """Compares all pairs, like a loss that mines."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        pairs = (labels[:, None] == labels).nonzero()
        return (embeddings[pairs[:, 0]] - embeddings[pairs[:, 1]]).square().sum()


def test_the_loss_is_measured_and_left_as_it_was() -> None:
    loss = AllPairs()

    def peak(images: int) -> int:
        return memory_of_loss(loss, torch.rand(images, 16), torch.zeros(images).long()).total

    few, many = peak(20), peak(40)
    assert few >= 2 * 20 * 20 * 16 * 4 and 3.5 * few < many < 4.5 * few
    assert loss.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0"])
def test_common_networks_grow_with_the_batch(name: str) -> None:
    net = timm.create_model(name, num_classes=0)
    size = 224 if name.startswith("vit") else 64
    predict: Callable[[int], int] = lambda n: tensors(net, torch.zeros(1, 3, size, size), n)  # noqa: E731
    two, four, eight = map(predict, (2, 4, 8))
    assert two < four < eight
    assert eight - four == pytest.approx(2 * (four - two), rel=0.2)
