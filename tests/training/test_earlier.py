"""The epochs before a phase, trained for a test of the phase."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siamkit import api
from siamkit.api.entries import registries
from siamkit.data.load import load_data
from siamkit.engine.settings import Reports
from siamkit.errors import ConfigError
from siamkit.freezing.schedule import History
from siamkit.interfaces import Phase
from siamkit.runs import checkpoint
from siamkit.training.build import Setup, build, prepare_images
from siamkit.training.earlier import train_before
from siamkit.training.optimizer import state_tensors
from siamkit.training.requirements import for_data
from siamkit.training.tensors import model_tensors

RunValues = Callable[..., dict[str, Any]]


def trained(
    values: dict[str, Any], chosen: Callable[[Setup, History], Phase]
) -> tuple[Setup, History, list[str]]:
    """Return a run's parts after the epochs before a phase, their metrics, and their events."""
    config = api.load_config({k: v for k, v in values.items() if k != "run_dir"})
    splits = load_data(config.data, config.train.seed)
    config = for_data(config, splits, registries())
    setup = build(config, registries(), len(splits.train.classes))
    prepare_images(setup, splits)
    events: list[str] = []
    reports = Reports(lambda name, _data: events.append(name), lambda: None)
    history = train_before(setup, splits, lambda known: chosen(setup, known), reports)
    return setup, history, events


def second(setup: Setup, history: History) -> Phase:
    return setup.schedule.phases(history)[1]


@pytest.mark.parametrize("head", ["mlp", "multistage"])
def test_the_network_and_the_optimizer_are_those_of_a_run(run_values: RunValues, head: str) -> None:
    engine = {"cache": "off", "prefix": "folded"}
    values = run_values(
        freeze={"name": "stages", "warmup": 2}, head={"name": head},
        train={"keep_checkpoints": 9}, engine=engine,
    )  # fmt: skip
    setup, history, events = trained(values, second)
    assert len(history) == events.count("epoch_end") == 2
    result = api.fit(values)
    assert history == result["history"][:2]
    folders = checkpoint.newest_first(Path(values["run_dir"]) / "checkpoints")
    saved = checkpoint.load(next(f for f in folders if f.name.startswith("epoch-00002")))
    for found, expected in (
        (model_tensors(setup), saved.model), (state_tensors(setup.optimizer), saved.optimizer)
    ):  # fmt: skip
        assert found.keys() == expected.keys() and expected
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_checkpoints_are_removed(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    trained(run_values(), second)
    assert not list(place.iterdir())


def test_a_phase_that_comes_later_than_expected_is_waited_for(run_values: RunValues) -> None:
    epochs = []

    def postponed(setup: Setup, history: History) -> Phase:
        epochs.append(len(history))
        plan = setup.schedule.plan_at(len(history), history)
        return Phase(2 if history else 1, 3, plan)

    assert len(trained(run_values(), postponed)[1]) == 2
    assert epochs == [0, 1, 2]


def test_a_run_that_stops_before_the_phase_is_refused(run_values: RunValues) -> None:
    values = run_values(
        train={"epochs": 9, "patience": 1}, freeze={"name": "stages", "warmup": 8},
        optimizer={"lr": 1e-9},
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        trained(values, second)
    assert str(caught.value) == (
        "train.patience: the run stops early, after epoch 2, so this phase never begins, got 1; "
        "use more patience, such as train={'patience': 9}"
    )
