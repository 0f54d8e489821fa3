from __future__ import annotations

from contextlib import nullcontext

import pytest
import timm
import torch
from timm.layers import set_reentrant_ckpt
from torch import Tensor, nn

from siamkit.freezing.peak import _CPU_BYTES, _CPU_FACTOR, peak_of_step


def allocated(net: nn.Module, images: Tensor, batch: int, state: int = 0) -> float:
    """Return the prediction without the share of the CPU's libraries."""
    peak = peak_of_step(net, images, batch, state, nullcontext)
    assert peak is not None
    return (peak - _CPU_BYTES) / _CPU_FACTOR


def test_a_linear_layer_needs_what_can_be_counted_by_hand() -> None:
    net = nn.Linear(100, 50, bias=False)
    weights, inputs, outputs = 4 * 100 * 50, 4 * 8 * 100, 4 * 8 * 50
    found = allocated(net, torch.zeros(1, 100), 8, state=2)
    # Weights, their gradient and two values of state; the inputs; the output and its gradient, and
    # what the square of the output needs.
    least = 4 * weights + inputs + 2 * outputs
    # Accumulating a gradient that is not contiguous copies it.
    assert least <= found <= least + weights + 4 * outputs


def test_what_is_frozen_needs_no_gradient_and_keeps_no_activations() -> None:
    net = timm.create_model("resnet18", num_classes=0)
    images = torch.zeros(1, 3, 64, 64)
    trained = allocated(net, images, 16, state=2)
    net.requires_grad_(False)
    frozen = allocated(net, images, 16, state=2)
    weights = sum(4 * p.numel() for p in net.parameters())
    assert frozen + 3 * weights < trained


def test_recomputed_activations_need_less() -> None:
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    kept = allocated(net, torch.zeros(1, 3, 224, 224), 8)
    set_reentrant_ckpt(False)
    net.set_grad_checkpointing(True)
    assert allocated(net, torch.zeros(1, 3, 224, 224), 8) < 0.6 * kept


def test_the_network_stays_as_it_was() -> None:
    net = timm.create_model("resnet18", num_classes=0).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    allocated(net, torch.zeros(1, 3, 32, 32), 4)
    assert not net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.linear(images)
        return out * 2 if float(out.sum()) > 0 else out


def test_a_forward_that_reads_values_cannot_be_predicted() -> None:
    assert peak_of_step(ReadsValues(), torch.zeros(1, 4), 4, 2, nullcontext) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0"])
def test_common_networks_can_be_predicted_and_grow_with_the_batch(name: str) -> None:
    net = timm.create_model(name, num_classes=0)
    size = 224 if name.startswith("vit") else 64
    one, four, eight = (allocated(net, torch.zeros(1, 3, size, size), n) for n in (1, 4, 8))
    assert one < four < eight
    assert eight - four == pytest.approx((four - one) * 4 / 3, rel=0.2)
