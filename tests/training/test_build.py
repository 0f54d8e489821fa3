"""Setup: what a run is refused for when its parts are built, and who provides them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit.api.entries import load_config, registries
from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Loss
from siamkit.training import build as building
from siamkit.training.build import built, checkpoint_activations, providers


def test_a_head_cannot_read_stages_whose_activations_are_recomputed(
    run_values: Callable[..., dict[str, Any]],
) -> None:
    values = run_values(head={"name": "multistage"}, train={"grad_checkpointing": True})
    with pytest.raises(ConfigError, match=r"train.grad_checkpointing: the head reads stage 'model"):
        siamkit.inspect(values)
    del values["head"]
    assert siamkit.inspect(values)["head"]["name"] == "residual"


def test_nothing_is_recomputed_without_epochs_so_the_head_reads_stages(
    run_values: Callable[..., dict[str, Any]],
) -> None:
    values = run_values(train={"grad_checkpointing": True, "epochs": 0}, report=False)
    del values["head"]
    siamkit.fit(values)
    config = siamkit.api.open_run(values["run_dir"]).config
    assert config.head.name == "multistage"


def test_a_head_that_is_left_open_has_no_provider(
    run_values: Callable[..., dict[str, Any]],
) -> None:
    values = run_values()
    known = registries()
    assert "head" in providers(load_config(values), known)
    del values["head"]
    assert "head" not in providers(load_config(values), known)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Loss, r"siamkit\.Loss"), (torch.optim.Optimizer, r"torch\.optim\.Optimizer")],
)
def test_a_plugin_that_builds_something_else_is_told_what_to_build(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str
) -> None:
    entry = SimpleNamespace(build=lambda options: [options], distribution="acme")
    monkeypatch.setattr(building, "options_of", lambda *_: (entry, None))
    component: Any = SimpleNamespace(name="odd")
    registry: Any = SimpleNamespace(kind="loss")
    with pytest.raises(PluginError, match=rf"'odd' of acme: build must return a {name}, got .list"):
        built(component, registry, kind)


class Recomputing(nn.Module):
    def set_grad_checkpointing(self, enable: bool) -> None:
        self.enabled = enable


def test_activations_are_recomputed_by_the_module_that_can() -> None:
    net = nn.Sequential(nn.Linear(1, 1), Recomputing())
    checkpoint_activations(net)
    assert net[1].enabled is True
    with pytest.raises(ConfigError, match="this backbone cannot recompute its activations"):
        checkpoint_activations(nn.Linear(1, 1))
