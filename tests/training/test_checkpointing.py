"""Checkpoints within epochs, how many are kept, and damage that is not gone back from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError, ResourceError
from siamkit.runs import checkpoint

RunValues = Callable[..., dict[str, Any]]


class Killed(BaseException):
    pass


def killed_at(name: str, step: int) -> Callable[[siamkit.Event], None]:
    """A listener that ends the process's work at an event of a step."""
    last = [0]

    def kill(event: siamkit.Event) -> None:
        last[0] = event.data.get("step", last[0]) if event.name == "step" else last[0]
        if event.name == name and last[0] >= step:
            raise Killed

    return kill


def tensors(run_dir: str | Path) -> dict[str, torch.Tensor]:
    saved = checkpoint.latest_intact(Path(run_dir) / "checkpoints")[0]
    return {**saved.model, **{f"o/{name}": t for name, t in saved.optimizer.items()}}


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_middle_of_an_epoch(
    run_values: RunValues, tmp_path: Path
) -> None:
    train = {"epochs": 2, "checkpoint_every": "1steps"}
    values = run_values(train=train, head="bnneck", loss="proxy-anchor")
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("step", 5)])
    events: list[siamkit.Event] = []
    again = api.resume(values["run_dir"], listeners=[events.append])
    first = next(event.data for event in events if event.name == "step")
    assert (first["step"], first["epoch_step"]) == (5, 2), "after the checkpoint of step 4"
    assert again["history"] == whole["history"]
    a, b = tensors(values["run_dir"]), tensors(tmp_path / "whole")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Anneals(nn.Linear):
    """A head with a part that becomes smaller with each step."""

    steps = 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return super().forward(features) + torch.tanh(features[:, :4]) / (1 + self.steps)


def test_a_network_that_counts_its_steps_goes_on_from_them(
    image_folder: Path, tmp_path: Path
) -> None:
    def network() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return {"backbone": layers, "head": Anneals(8, 4)}

    events: list[siamkit.Event] = []

    def fit(run: Path, listen: Callable[[siamkit.Event], None]) -> None:
        siamkit.fit(
            data=image_folder, **network(), freeze="freeze-all", epochs=2, run_dir=run,
            image_size=32, train={"batch_size": 8, "checkpoint_every": "1steps"},
            listeners=[listen],
        )  # fmt: skip

    fit(tmp_path / "whole", events.append)
    with pytest.raises(Killed):
        fit(tmp_path / "run", killed_at("step", 3))
    siamkit.resume(tmp_path / "run", **network())
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert not any("no checkpoint holds" in str(event.data.get("text")) for event in events)


def test_a_usual_run_saves_and_says_nothing_of_attributes(run_values: RunValues) -> None:
    events: list[siamkit.Event] = []
    values = run_values(train={"epochs": 2}, freeze={"name": "full"})
    api.fit(values, listeners=[events.append])
    saved = checkpoint.latest_intact(Path(values["run_dir"]) / "checkpoints")[0]
    assert not any("attribute::" in name for name in saved.optimizer)
    assert not any(name.startswith("net") for name in saved.state["attributes"])
    assert not any("no checkpoint holds" in str(event.data.get("text")) for event in events)


def test_a_resumed_run_keeps_its_number_of_threads(run_values: RunValues) -> None:
    before = torch.get_num_threads()
    values = run_values(train={"epochs": 1, "threads": before + 1, "checkpoint_every": "1steps"})
    used: list[int] = []

    def note(event: siamkit.Event) -> None:
        if event.name == "step":
            used.append(torch.get_num_threads())

    with pytest.raises(Killed):
        api.fit(values, listeners=[note, killed_at("step", 2)])
    assert set(used) == {before + 1} and torch.get_num_threads() == before
    used.clear()
    with pytest.raises(Killed):
        api.resume(values["run_dir"], listeners=[note, killed_at("step", 3)])
    assert set(used) == {before + 1}
    used.clear()
    events: list[siamkit.Event] = []
    change = {"threads": before + 2}
    api.resume(values["run_dir"], listeners=[note, events.append], train=change)
    assert set(used) == {before + 2} and torch.get_num_threads() == before
    said = [event.data["text"] for event in events if event.name == "notice"]
    assert any("threads instead of" in text and "last digits" in text for text in said)
    events.clear()
    api.resume(values["run_dir"], listeners=[events.append], train={"threads": before + 3})
    assert not any("threads" in str(event.data.get("text")) for event in events), "it is over"


def saved_steps(values: dict[str, Any]) -> list[str]:
    paths: list[str] = []

    def listen(event: siamkit.Event) -> None:
        if event.name == "checkpoint":
            paths.append(Path(event.data["path"]).name)

    api.fit(values, listeners=[listen])
    return [name.removeprefix("epoch-").replace("-step-", "/") for name in paths]


def test_the_interval_counts_from_the_latest_checkpoint(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 2, "checkpoint_every": "2steps"})
    # An epoch has 3 steps.
    assert saved_steps(values) == [
        "00000/00000000", "00000/00000002", "00001/00000003", "00001/00000005", "00002/00000006",
    ]  # fmt: skip


def test_the_interval_may_be_a_time(run_values: RunValues, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 45))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)), perf_counter=time.perf_counter)
    monkeypatch.setattr("siamkit.training.loop.time", clock)  # only there, not in all modules
    steps = saved_steps(run_values(train={"epochs": 1, "checkpoint_every": "1m"}))
    assert "00000/00000002" in steps


def test_without_an_interval_only_epochs_are_saved(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 2})
    assert saved_steps(values) == ["00000/00000000", "00001/00000003", "00002/00000006"]


def test_a_checkpoint_within_an_epoch_is_never_the_best(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1, "checkpoint_every": "1steps", "keep_checkpoints": 9})
    events: list[siamkit.Event] = []
    api.fit(values, listeners=[events.append])
    said = [event.data["best"] for event in events if event.name == "checkpoint"]
    assert said == [False, False, False, False, True]
    folders = checkpoint.newest_first(Path(values["run_dir"]) / "checkpoints")
    best = [checkpoint.load_state(folder).state["best_checkpoint"] for folder in folders]
    assert best == ["epoch-00001-step-00000003", None, None, None, None]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_are_kept_as_wished_and_the_best(
    run_values: RunValues, keep: int
) -> None:
    train = {"epochs": 3, "keep_checkpoints": keep, "checkpoint_every": "1steps"}
    values = run_values(train=train)
    api.fit(values)
    root = Path(values["run_dir"]) / "checkpoints"
    names = [folder.name for folder in checkpoint.newest_first(root)]
    best = checkpoint.pointed_to(root, checkpoint.BEST)
    assert names[0] == "epoch-00003-step-00000009" and best in names
    assert len([name for i, name in enumerate(names) if i < keep or name != best]) == keep
    assert len(names) <= keep + 1


@pytest.mark.slow
def test_how_often_and_how_many_may_change_when_a_run_goes_on(run_values: RunValues) -> None:
    values = run_values()
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("step", 4)])
    train = {"checkpoint_every": "1steps", "keep_checkpoints": 4}
    api.resume(values["run_dir"], train=train)
    assert len(checkpoint.newest_first(Path(values["run_dir"]) / "checkpoints")) >= 4


def test_more_checkpoints_need_more_space_before_the_run(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100_000_000))
    api.fit(run_values(train={"epochs": 1}))
    with pytest.raises(ResourceError, match="not enough disk space for checkpoints"):
        api.fit(run_values(train={"keep_checkpoints": 1000}, run_dir=str(tmp_path / "more")))


@pytest.fixture
def damaged(run_values: RunValues) -> Path:
    """An interrupted run whose newest checkpoint is damaged."""
    values = run_values()
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("checkpoint", 6)])
    newest = checkpoint.newest_first(Path(values["run_dir"]) / "checkpoints")[0]
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return Path(values["run_dir"])


@pytest.mark.slow
def test_strict_ends_instead_of_going_back(damaged: Path) -> None:
    before = {p: p.read_bytes() for p in (damaged / "checkpoints").rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file is damaged"):
        api.resume(damaged, strict=True)
    after = {p: p.read_bytes() for p in (damaged / "checkpoints").rglob("*") if p.is_file()}
    assert after == before
    assert api.resume(damaged)["epochs"] == 3


def test_strict_ends_if_the_best_network_is_lost(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamkit.training.loop.best_epoch", lambda history, monitor: 0)
    values = run_values(train={"epochs": 2, "keep_checkpoints": 1})
    run = Path(values["run_dir"])
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("checkpoint", 6)])
    shutil.rmtree(api.open_run(run).best.folder)
    with pytest.raises(CheckpointError, match="the file is missing"):
        api.resume(run, strict=True)


@pytest.mark.slow
def test_the_best_network_is_not_lost_with_the_optimizer_of_its_epoch(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamkit.training.loop.best_epoch", lambda history, monitor: 0)
    values = run_values(train={"epochs": 2})
    run = Path(values["run_dir"])
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("checkpoint", 6)])
    (api.open_run(run).best.folder / "optimizer.safetensors").unlink()
    assert api.resume(run, strict=True)["metrics"]["best"]["epoch"] == 1
    assert api.load_model(run).embedding_dim == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine's cores
def test_the_number_of_workers_may_change_whenever_a_run_goes_on(
    run_values: RunValues, tmp_path: Path
) -> None:
    values = run_values(train={"epochs": 3, "checkpoint_every": "1steps"}, head="bnneck")
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})
    with pytest.raises(Killed):
        api.fit(values, listeners=[killed_at("step", 3)])
    with pytest.raises(Killed):
        api.resume(values["run_dir"], data={"workers": 2}, listeners=[killed_at("step", 6)])
    again = api.resume(values["run_dir"], data={"workers": 4})
    assert again["history"] == whole["history"]
    a, b = tensors(values["run_dir"]), tensors(tmp_path / "whole")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
