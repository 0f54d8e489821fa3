"""Setup: what a run is refused for when its parts are built, and who provides them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import siamkit
from siamkit.api.entries import load_config, registries
from siamkit.errors import ConfigError
from siamkit.training.build import providers


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
