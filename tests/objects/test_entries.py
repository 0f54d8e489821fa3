"""Entries for objects: copies of what was given, and errors for what does not fit."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn

import siamkit
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, Loss, LossContext
from siamkit.objects.adapters import MetricLearningLoss
from siamkit.objects.entries import TAKES, entry_of, is_object
from siamkit.registry import GIVEN, KINDS


def test_an_object_is_what_is_neither_a_name_nor_a_mapping() -> None:
    assert is_object(nn.Identity()) and is_object(max)
    assert not any(map(is_object, ("resnet50", {"name": "resnet50"}, None)))


def test_each_section_says_what_it_takes() -> None:
    assert set(TAKES) == {kind.section for kind in KINDS.values()}


def test_a_module_is_copied_for_each_build() -> None:
    module = nn.Linear(2, 2)
    for section in ("backbone", "head"):
        entry = entry_of(section, module)
        one, other = entry.build(None, None), entry.build(None, None)
        assert one is not module and other is not one
        assert torch.equal(one.weight, module.weight)
        assert entry.name == "python:torch.nn.modules.linear.Linear"
        assert entry.distribution == GIVEN


def test_functions_and_losses_become_what_siamkit_calls() -> None:
    def plan(stages: Any, progress: Any) -> FreezePlan:
        return FreezePlan(frozenset())

    moment = siamkit.Progress(0, 1)
    assert entry_of("freeze", plan).build(None).plan((), moment) == FreezePlan(frozenset())
    assert entry_of("scheduler", lambda progress: 2).build(None).lr_scale(moment) == 2.0
    pair = (losses.ContrastiveLoss(), miners.MultiSimilarityMiner())
    for given in (pair, pair[0]):
        assert isinstance(entry_of("loss", given).build(None, LossContext(2, 2)), Loss)
    assert MetricLearningLoss.takes(*pair)
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": 0.5}]
    assert entry_of("optimizer", torch.optim.SGD).build(None, groups).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("section", "thing"),
    [
        ("backbone", nn.Linear),
        ("head", max),
        ("freeze", FreezePlan(frozenset())),
        ("loss", nn.ReLU()),
        ("loss", (losses.ContrastiveLoss(), max)),
        ("optimizer", torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)),
        ("scheduler", 0.1),
        ("scheduler", siamkit.Scheduler),
        ("track", []),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(section: str, thing: Any) -> None:
    with pytest.raises(ConfigError, match=f"{section}: is of a wrong type, got") as caught:
        entry_of(section, thing)
    assert TAKES[section] in str(caught.value)
    if isinstance(thing, type):
        assert f"pass an instance: {thing.__name__}(...)" in str(caught.value)


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_copy_of_torchscript_has_parameters_of_its_own() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    module = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), torch.jit.script(frozen))
    copy = entry_of("backbone", module).build(None, None)
    assert [p.requires_grad for p in copy.parameters()] == [True, True, False, False]
    torch.optim.SGD(copy.parameters(), lr=1.0)  # refuses tensors that are no leaves
    before = [p.clone() for p in module.parameters()]
    copy(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(copy.parameters(), lr=1.0).step()
    assert not torch.equal(copy[0].bias, before[1])
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    assert all(p.grad is None for p in module.parameters())


def test_what_cannot_be_copied_is_refused_by_the_name_of_its_attribute() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].lock = threading.Lock()  # type: ignore[assignment]
    for section in ("backbone", "head"):
        with pytest.raises(
            ConfigError, match=rf"{section}: cannot be copied.*attribute 0\.lock: T"
        ):
            entry_of(section, module).build(None, None)
    computed = losses.ContrastiveLoss()
    computed.scale = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(ConfigError, match=r"loss: cannot be copied.*its attribute scale: "):
        entry_of("loss", computed).build(None, LossContext(2, 2))

    class Watching:
        lock = None

        def __call__(self, event: Any) -> None: ...

    watching = Watching()
    watching.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"track: cannot be copied.*its attribute lock: "):
        entry_of("track", watching).build(None)


# --- losses that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion", [losses.SelfSupervisedLoss(losses.NTXentLoss()), losses.VICRegLoss()]
)
def test_a_miner_that_would_never_be_called_is_refused(criterion: nn.Module) -> None:
    name = type(criterion).__name__
    with pytest.raises(ConfigError, match=rf"loss: {name} compares two views.*loss={name}\("):
        entry_of("loss", (criterion, miners.MultiSimilarityMiner()))
    entry_of("loss", (criterion, None))


@pytest.mark.parametrize(
    "kind",
    [
        losses.ArcFaceLoss, losses.NormalizedSoftmaxLoss, losses.P2SGradLoss,
        losses.ProxyAnchorLoss, losses.ProxyNCALoss, losses.SoftTripleLoss,
        losses.SubCenterArcFaceLoss,
    ],
)  # fmt: skip
@pytest.mark.parametrize("within", [False, True])
def test_a_loss_for_other_classes_or_widths_is_refused(kind: Any, within: bool) -> None:
    def loss(classes: int, width: int) -> nn.Module:
        if kind is losses.P2SGradLoss:
            made = kind(width, classes)
        else:
            made = kind(num_classes=classes, embedding_size=width)
        return losses.MultipleLosses([losses.ContrastiveLoss(), made]) if within else made

    context = LossContext(8, 6)
    for right in (loss(6, 8), loss(9, 8)):
        entry_of("loss", right).build(None, context)
    for wrong in (loss(5, 8), loss(6, 9)):
        with pytest.raises(
            ConfigError, match=r"made for another number of classes.*num_classes=6.*size=8"
        ):
            entry_of("loss", wrong).build(None, context)
