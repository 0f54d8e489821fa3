"""Objects in place of names: in the registries, in the config, and when they are passed again."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from siamkit.config import RunConfig
from siamkit.errors import CheckpointError
from siamkit.objects.identity import source_hash
from siamkit.objects.overlay import overlaid, require_same
from siamkit.registry import Entry, NoOptions, Registry

NAME = "python:torch.nn.modules.linear.Linear"


def registry(section: str) -> Registry:
    found = Registry(section, f"list {section}")
    found.add(Entry("known", print, NoOptions))
    return found


def test_an_object_is_an_entry_of_its_own_beside_those_that_are_registered() -> None:
    before = {"head": registry("head"), "loss": registry("loss")}
    thing = nn.Linear(4, 2)
    after, values = overlaid(before, {"head": thing})
    assert values == {"head": {"name": NAME, "source": source_hash(thing)}}
    assert set(after["head"].entries) == {"known", NAME}
    assert set(before["head"].entries) == {"known"}, "other runs do not see the object"
    assert after["loss"] is before["loss"]
    assert overlaid(before, {}) == (before, {})


def config(name: str, source: str) -> Any:
    return RunConfig.model_validate({"head": {"name": name, "source": source}})


def test_the_same_object_may_be_passed_again_and_no_other() -> None:
    thing = nn.Linear(4, 2)
    run = config(NAME, source_hash(thing))
    require_same({"head": nn.Linear(4, 2)}, run, "runs/a")
    require_same({}, run, "runs/a")
    with pytest.raises(CheckpointError, match="has other source code, settings or shapes") as other:
        require_same({"head": nn.Linear(4, 3)}, run, "runs/a")
    assert other.value.where == "runs/a: head"
    with pytest.raises(CheckpointError, match="is not what the run was started with") as wrong:
        require_same({"head": nn.ReLU()}, run, "runs/a")
    assert wrong.value.got == "torch.nn.modules.activation.ReLU"
    assert wrong.value.allowed == NAME.removeprefix("python:")
    with pytest.raises(CheckpointError, match="is not what"):
        require_same({"head": thing}, config("mlp", ""), "runs/a")
