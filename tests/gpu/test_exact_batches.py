"""A step of several forward passes on a GPU equals that of a single pass over all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamkit import api
from siamkit.batches import Batch
from siamkit.config import LossConfig
from siamkit.interfaces import Loss, LossContext, Pairs, Triplets
from siamkit.training.build import built
from siamkit.training.step import LossWork, Stepper

CLASSES, EACH = 8, 4
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)

DOUBLE, PARAMETERS = 1e-6, 1e-4
"""Largest relative differences of gradients: in float64, where the square root of a distance turns
rounding errors of 1e-16 into 1e-8; and of losses that compute in float32, as their parameters."""


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.LayerNorm(6),
    ).to(dtype)  # fmt: skip


def loss_of(name: str) -> Loss:
    torch.manual_seed(2)
    loss: Loss = built(
        LossConfig(name=name), api.registries()["loss"], Loss, LossContext(6, CLASSES)
    )
    return loss


def gradients(
    device: torch.device,
    name: str,
    cuts: Sequence[int],
    known: Pairs | Triplets | None = None,
    dtype: torch.dtype = torch.float64,
    precision: str = "fp32",
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of one step with passes of these sizes."""
    net, loss = network(dtype).to(device), loss_of(name).to(device)
    if precision != "fp32":
        net[5].weight.data *= 20  # so that the embeddings differ by more than the rounding
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.0)
    stepper = Stepper(net.train(), loss, optimizer, device, precision)  # type: ignore[arg-type]
    images = torch.randn(len(LABELS), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    index = torch.arange(len(LABELS))
    parts = zip(*(t.split(list(cuts)) for t in (images.to(dtype), LABELS, index)), strict=True)
    work = LossWork((Batch(*part) for part in parts), len(cuts), known, 1.0)
    value = stepper([work], seed=5)
    named = [*net.named_parameters(), *((f"loss.{n}", p) for n, p in loss.named_parameters())]
    return value, {name: p.grad for name, p in named if p.grad is not None}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-9)) for n in a)


@pytest.mark.parametrize("cuts", [[16, 16], [4] * 8, [10, 20, 2]], ids=str)
@pytest.mark.parametrize("name", sorted(entry.name for entry in api.registries()["loss"]))
def test_the_gradients_of_every_loss(device: torch.device, name: str, cuts: list[int]) -> None:
    whole, parts = gradients(device, name, [32]), gradients(device, name, cuts)
    allowed = PARAMETERS if list(loss_of(name).parameters()) else DOUBLE
    assert parts[0] == pytest.approx(whole[0], rel=allowed)
    assert apart(parts[1], whole[1]) < allowed


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_in_half_precision(device: torch.device, precision: str) -> None:
    whole, parts = (
        gradients(device, "multi-similarity", cuts, dtype=torch.float32, precision=precision)
        for cuts in ([32], [8] * 4)
    )
    assert parts[0] == pytest.approx(whole[0], rel=1e-2)
    assert apart(parts[1], whole[1]) < 5e-2
    assert all(gradient.dtype == torch.float32 for gradient in parts[1].values())


def test_known_pairs_and_triplets_may_lie_in_different_passes(device: torch.device) -> None:
    a, b = torch.arange(0, 16), torch.arange(16, 32)
    pairs = Pairs(a, b, torch.tensor([True, False] * 8))
    for known, name in ((pairs, "contrastive"), (Triplets(a[:10], b[:10], b[6:]), "triplet")):
        whole, parts = (gradients(device, name, cuts, known) for cuts in ([32], [8] * 4))
        assert apart(parts[1], whole[1]) < DOUBLE


@pytest.mark.parametrize("cache", ["off", "always"])
@pytest.mark.parametrize("policy", ["freeze-all", "full"])
def test_runs_with_micro_batches_learn_the_same(train: Any, policy: str, cache: str) -> None:
    whole, parts = (
        train(
            f"micro-{micro}",
            freeze={"name": policy},
            engine={"cache": cache},
            train={"micro_batch": micro, "epochs": 2},
            optimizer={"name": "sgd", "lr": 0.01},
        )
        for micro in (None, 3)
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor, rtol=1e-2, atol=1e-4)


def test_dropout_drops_the_same_values_in_the_repeated_pass(device: torch.device) -> None:
    """The generator of the GPU is seeded for each pass; else, a repeated pass would be refused."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Dropout(0.5)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    stepper = Stepper(net.train(), loss_of("supcon"), optimizer, device)  # type: ignore[arg-type]
    images, index = torch.randn(32, 3, 2, 2), torch.arange(32)
    parts = zip(*(t.split(8) for t in (images, LABELS, index)), strict=True)
    values = [
        stepper([LossWork((Batch(*part) for part in list(parts)), 4, None, 1.0)], seed=3)
        for parts in [list(parts)] * 2
    ]
    assert values[0] == values[1]
