"""A step of several forward passes equals that of a single one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn

import siamkit
from siamkit import api
from siamkit.batches import Batch
from siamkit.config import LossConfig
from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, LossContext, Pairs, Triplets
from siamkit.objects.adapters import MetricLearningLoss
from siamkit.training.build import built
from siamkit.training.step import LossWork, Stepper

CPU = torch.device("cpu")
CLASSES, EACH = 8, 4
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)

EUCLIDEAN, ROOT = ("contrastive", "triplet"), 1e-6
"""The square root in these losses' distances turns rounding errors of 1e-16 into 1e-8."""


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.LayerNorm(6),
    ).to(dtype)  # fmt: skip


def images(count: int = len(LABELS), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def built_loss(name: str) -> Loss:
    torch.manual_seed(2)
    loss: Loss = built(
        LossConfig(name=name), api.registries()["loss"], Loss, LossContext(6, CLASSES)
    )
    return loss


def gradients(
    net: nn.Module,
    loss: Loss,
    cuts: Sequence[int],
    known: Pairs | Triplets | None = None,
    *,
    inputs: Tensor | None = None,
    **settings: Any,
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of one step."""
    net, loss = copy.deepcopy(net), copy.deepcopy(loss)
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.0)
    stepper = Stepper(net.train(), loss, optimizer, CPU, **settings)  # type: ignore[arg-type]
    inputs = images() if inputs is None else inputs
    index = torch.arange(len(LABELS))
    parts = zip(*(t.split(list(cuts)) for t in (inputs, LABELS, index)), strict=True)
    work = LossWork((Batch(*part) for part in parts), len(cuts), known, 1.0)
    value = stepper([work], seed=5)
    named = [*net.named_parameters(), *((f"loss.{n}", p) for n, p in loss.named_parameters())]
    return value, {name: p.grad for name, p in named if p.grad is not None}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-9)) for n in a)


@pytest.mark.parametrize("cuts", [[16, 16], [4] * 8, [1] * 32, [10, 20, 2]], ids=str)
@pytest.mark.parametrize("name", sorted(entry.name for entry in api.registries()["loss"]))
def test_the_gradients_of_every_loss(name: str, cuts: list[int]) -> None:
    net, loss = network(), built_loss(name)
    whole, parts = gradients(net, loss, [32]), gradients(net, loss, cuts)
    # Losses with parameters compute in the type of their parameters, float32.
    tolerance = 1e-5 if list(loss.parameters()) else ROOT if name in EUCLIDEAN else 1e-10
    assert parts[0] == pytest.approx(whole[0], rel=tolerance)
    assert apart(parts[1], whole[1]) < tolerance


def test_a_loss_that_draws_at_random_draws_the_same() -> None:
    loss = MetricLearningLoss(losses.TripletMarginLoss(margin=2.0, triplets_per_anchor=1))
    whole, parts = gradients(network(), loss, [32]), gradients(network(), loss, [4] * 8)
    assert parts[0] == pytest.approx(whole[0], rel=ROOT)
    assert apart(parts[1], whole[1]) < ROOT


def test_a_loss_for_each_part_is_another_function() -> None:
    """The comparison above can fail: naive accumulation gives other gradients."""
    net, loss = network(), built_loss("supcon")
    whole = gradients(net, loss, [32])[1]
    part = gradients(net, loss, [16, 16])[1]
    assert apart(part, whole) < 1e-10
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    stepper = Stepper(net, loss, optimizer, CPU)  # type: ignore[arg-type]
    index = torch.arange(32)
    halves = [
        Batch(images()[half], LABELS[half], index[half]) for half in (slice(16), slice(16, 32))
    ]
    stepper([LossWork(iter([batch]), 1, None, 0.5) for batch in halves])
    naive = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert apart(naive, whole) > 1e-3


def test_known_pairs_and_triplets_may_lie_in_different_passes() -> None:
    a, b = torch.arange(0, 16), torch.arange(16, 32)
    pairs = Pairs(a, b, torch.tensor([True, False] * 8))
    triplets = Triplets(a[:10], b[:10], b[6:])
    for known, name in ((pairs, "contrastive"), (triplets, "triplet")):
        loss = built_loss(name)
        whole = gradients(network(), loss, [32], known)
        parts = gradients(network(), loss, [8] * 4, known)
        assert apart(parts[1], whole[1]) < ROOT


def test_two_views_of_each_image() -> None:
    loss = MetricLearningLoss(losses.SelfSupervisedLoss(losses.NTXentLoss()))

    def step(parts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        net = network()
        stepper = Stepper(net, loss, torch.optim.SGD(net.parameters(), lr=0.0), CPU)  # type: ignore[arg-type]
        first, second = images(8), images(16)[8:]
        batches = []
        for part in parts:
            index = torch.tensor([*part, *part])
            both = torch.cat([first[list(part)], second[list(part)]])
            batches.append(Batch(both, index, index))
        stepper([LossWork(iter(batches), len(batches), None, 1.0)])
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    assert apart(step([range(3), range(3, 6), range(6, 8)]), step([range(8)])) < 1e-10


def test_dropout_drops_the_same_values_in_the_repeated_pass() -> None:
    net = nn.Sequential(network(), nn.Dropout(0.5))
    value, parts = gradients(net, built_loss("supcon"), [16, 16])
    # The same masks, in one graph: pass by pass, with the seeds that the stepper uses.
    reference = copy.deepcopy(net).train()
    outputs = []
    for place, part in enumerate(images().split(16)):
        torch.manual_seed(5 + place)
        outputs.append(reference(part))
    loss = built_loss("supcon")(torch.cat(outputs), LABELS)
    loss.backward()
    assert value == pytest.approx(float(loss.detach()))
    expected = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert apart(parts, expected) < 1e-10


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(precision: str) -> None:
    net, inputs = network(torch.float32), images(dtype=torch.float32)
    net[5].weight.data *= 20  # so that the embeddings differ by more than the rounding
    loss = built_loss("multi-similarity")
    whole = gradients(net, loss, [32], inputs=inputs, precision=precision)
    parts = gradients(net, loss, [8] * 4, inputs=inputs, precision=precision)
    assert parts[0] == pytest.approx(whole[0], rel=1e-3)
    assert apart(parts[1], whole[1]) < 2e-2
    assert all(g.dtype == torch.float32 for g in parts[1].values())


def test_the_gradient_is_clipped_after_all_passes() -> None:
    loss = built_loss("supcon")
    whole = gradients(network(), loss, [32], clip_norm=1e-3)[1]
    parts = gradients(network(), loss, [8] * 4, clip_norm=1e-3)[1]
    assert apart(parts, whole) < 1e-10
    length = sum(float(g.square().sum()) for g in parts.values()) ** 0.5
    assert length == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.slow
def test_a_resnet50_in_float32() -> None:
    net = siamkit.create_model(
        timm.create_model("resnet50", num_classes=0), head="mlp", image_size=64
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, m=module: m  # type: ignore[method-assign, assignment, misc]
            module.training = False
    inputs = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss = built_loss("supcon")
    whole = gradients(net, loss, [32], inputs=inputs)
    parts = gradients(net, loss, [8] * 4, inputs=inputs)
    assert apart(parts[1], whole[1]) < 1e-4


class Drifts(nn.Module):
    """Gives another output each time, by a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.from_numpy(self.random.standard_normal(features.shape))


class Own(nn.Module):
    """A dropout that draws from a generator that is not torch's, as on a GPU."""

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.from_numpy(np.random.rand(*features.shape)).to(features)


class Scales(nn.Module):
    """Changes its input in place."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(0.5).add_(0.1)


def test_a_pass_that_gives_other_embeddings_when_repeated_is_refused() -> None:
    net = nn.Sequential(network(), Drifts())
    with pytest.raises(ConfigError, match=r"not possible: .* when a forward pass is repeated"):
        gradients(net, built_loss("supcon"), [16, 16])
    gradients(net, built_loss("supcon"), [32])  # one pass is fine


@pytest.mark.parametrize("cuts", [[16, 16], [1] * 32], ids=str)
def test_random_numbers_of_any_generator_are_drawn_again(cuts: list[int]) -> None:
    gradients(nn.Sequential(network(), Own()), built_loss("supcon"), cuts)


def test_a_network_that_changes_its_input_in_place_gets_the_same_images_again() -> None:
    net, loss = nn.Sequential(Scales(), network()), built_loss("supcon")
    parts, whole = (gradients(net, loss, cuts, inputs=images()) for cuts in ([10, 20, 2], [32]))
    assert apart(parts[1], whole[1]) < 1e-10
