"""A run that begins from given tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siamkit import api
from siamkit.data.load import load_data
from siamkit.errors import CheckpointError
from siamkit.training.begin import FIRST, begin

RunValues = Callable[..., dict[str, Any]]


@pytest.fixture
def trained(run_values: RunValues) -> Path:
    values = run_values(train={"epochs": 1})
    api.fit(values)
    return Path(values["run_dir"])


@pytest.mark.slow
def test_it_can_be_resumed_from_its_first_step(trained: Path, tmp_path: Path) -> None:
    run = api.open_run(trained)
    splits = load_data(run.config.data, run.config.train.seed)
    tensors = run.checkpoint("best").model
    folder = tmp_path / "new"
    folder.mkdir()
    begin(folder, run.config, run.registries, splits, tensors, "those of a test")
    begun = api.open_run(folder)
    assert begun.checkpoint("last").name == FIRST
    assert all(torch.equal(begun.checkpoint("last").model[n], t) for n, t in tensors.items())
    heard: list[Any] = []
    result = api.resume(folder, listeners=[heard.append])
    assert heard[0].name == "run_start" and heard[0].data["weights"] == "those of a test"
    assert result.epochs == 1 and api.open_run(folder).calibration()


def test_tensors_of_another_network_are_refused(trained: Path, tmp_path: Path) -> None:
    run = api.open_run(trained)
    splits = load_data(run.config.data, run.config.train.seed)
    with pytest.raises(CheckpointError, match="do not fit"):
        begin(tmp_path, run.config, run.registries, splits, {"a": torch.ones(1)}, "a test")
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("computed", [False, True])
def test_a_head_that_is_only_computed_is_not_inherited(
    run_values: RunValues, tmp_path: Path, computed: bool
) -> None:
    """It would otherwise be kept from another network, and never computed for this one."""
    head = {"name": "multistage", "dim": 8, **({"trained": False} if computed else {})}
    values = run_values(train={"epochs": 1}, head=head, freeze={"name": "full"})
    api.fit(values)
    run = api.open_run(Path(values["run_dir"]))
    splits = load_data(run.config.data, run.config.train.seed)
    folder = tmp_path / "new"
    folder.mkdir()
    tensors = run.checkpoint("best").model
    begin(folder, run.config, run.registries, splits, tensors, "a test", inherited=True)
    assert api.open_run(folder).checkpoint("last").state["inherited"] is not computed
