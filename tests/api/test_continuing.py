"""One command that begins a run or continues it, until it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit import api
from siamkit.api.continuing import begin_or_continue
from siamkit.errors import CheckpointError, ConfigError
from siamkit.runs import checkpoint

RunValues = Callable[..., dict[str, Any]]


class Killed(BaseException):
    pass


def kill_at(name: str, epoch: int = 0) -> Callable[[siamkit.Event], None]:
    def kill(event: siamkit.Event) -> None:
        if event.name == name and event.data.get("epoch", 0) >= epoch:
            raise Killed

    return kill


def begin(values: dict[str, Any], **options: Any) -> siamkit.TrainingResult:
    return begin_or_continue([values], lambda key: f"--{key}", **options)


@pytest.mark.slow
def test_the_same_call_begins_continues_and_repeats_the_result(
    run_values: RunValues, tmp_path: Path
) -> None:
    values = run_values()
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})
    with pytest.raises(Killed):
        begin(values, listeners=[kill_at("checkpoint", 1)])
    events: list[str] = []
    done = begin(values, listeners=[lambda event: events.append(event.name)])
    assert done["history"] == whole["history"]
    assert events.count("epoch_end") == 2
    assert begin(values).to_json() == done.to_json(), "it was finished"


@pytest.mark.parametrize("left", ["nothing", "folder", "config", "first save"])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    run_values: RunValues, tmp_path: Path, left: str
) -> None:
    values = run_values(train={"epochs": 1})
    run = Path(values["run_dir"])
    if left == "folder":
        (run / ".siamkit-0123456789abcdef").mkdir(parents=True)
    elif left != "nothing":
        with pytest.raises(Killed):
            begin(values, listeners=[kill_at("run_start")])
        if left == "first save":
            (run / "checkpoints/.siamkit-0123456789abcdef/new").mkdir(parents=True)
    assert begin(values)["epochs"] == 1
    names = [event["event"] for event in api.open_run(run).log.events]
    assert names.count("run_start") == 1, "the log is that of the new run"


def test_what_decides_the_result_must_be_as_in_the_run(run_values: RunValues) -> None:
    values = run_values()
    with pytest.raises(Killed):
        begin(values, listeners=[kill_at("checkpoint", 1)])
    with pytest.raises(
        ConfigError, match=r"--loss\.margin, --train\.epochs: cannot be changed when a run goes on"
    ):
        begin({**values, "train": {"epochs": 4}, "loss": {"name": "triplet", "margin": 0.3}})


def test_what_is_left_out_or_chosen_by_the_run_is_no_change(run_values: RunValues) -> None:
    open_keys = {"fit": "auto", "range": "auto"}
    values = run_values(data=open_keys, train={"epochs": 2, "monitor": None})
    with pytest.raises(Killed):
        begin(values, listeners=[kill_at("checkpoint", 1)])
    del values["train"]["batch_size"]
    values["head"], values["loss"] = "auto", "triplet"
    assert begin(values)["epochs"] == 2


@pytest.mark.slow
def test_what_decides_nothing_may_change(
    run_values: RunValues, image_folder: Path, tmp_path: Path
) -> None:
    values = run_values(train={"epochs": 2})
    with pytest.raises(Killed):
        begin(values, listeners=[kill_at("checkpoint", 1)])
    values["data"]["path"] = str(shutil.copytree(image_folder, tmp_path / "moved"))
    values["train"]["keep_checkpoints"] = 3
    assert begin(values)["epochs"] == 2
    kept = api.open_run(values["run_dir"]).config
    assert kept.data.path == values["data"]["path"] and kept.train.keep_checkpoints == 3


def test_damage_is_no_reason_to_begin_again(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    begin(values)
    root = Path(values["run_dir"]) / "checkpoints"
    for folder in checkpoint.newest_first(root):
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json"):
        begin(values)
    assert checkpoint.newest_first(root)


def test_it_needs_a_directory(run_values: RunValues) -> None:
    values = run_values()
    del values["run_dir"]
    with pytest.raises(ConfigError, match="run_dir: is missing: it names the directory of the run"):
        begin(values)
