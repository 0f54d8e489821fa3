"""Entries for objects: copies of what was given, and errors for what does not fit."""

from __future__ import annotations

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
    with pytest.raises(ConfigError, match=f"{section}: cannot be used here, got") as caught:
        entry_of(section, thing)
    assert TAKES[section] in str(caught.value)
    if isinstance(thing, type):
        assert f"pass an instance: {thing.__name__}(...)" in str(caught.value)
