"""The events that the kit sends to a tracker are those of one run, without a contradiction."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from siamkit.testing.trackers import _MARK, run_events


@pytest.mark.parametrize("start", [0, 1])
def test_the_events_count_the_same_epochs_and_steps(tmp_path: Path, start: int) -> None:
    events = [(event.name, event.data) for event in run_events(tmp_path, start)]
    of = {name: [data for other, data in events if other == name] for name, _ in events}
    [begin], [end] = of["run_start"], of["run_end"]
    epochs, steps = begin["epochs"], begin["epochs"] * begin["steps_per_epoch"]
    assert begin["config"]["train"]["epochs"] == end["epochs"] == epochs == 2
    assert (begin["finished_epochs"], begin["finished_steps"]) == (start, 2 * start)
    left = list(range(start + 1, epochs + 1))
    for name in ("phase_start", "engine", "epoch_end", "checkpoint"):
        assert [data["epoch"] for data in of[name]] == left, name
    assert {data["epochs"] for data in of["epoch_end"]} == {epochs}
    assert [data["step"] for data in of["step"]] == list(range(2 * start + 1, steps + 1))
    for data in of["step"]:
        assert (data["steps"], data["epoch_steps"]) == (steps, begin["steps_per_epoch"])
        assert data["step"] == 2 * (data["epoch"] - 1) + data["epoch_step"]
    for data in of["phase_start"]:
        assert sum(change["parameters"] for change in data["changes"]) == data["parameters"]
        trains = sum(change["trainable"] for change in data["changes"])
        assert data["trainable_parameters"] == 64 <= trains
    assert ("untrained" in of) == (start == 0)
    [stop] = of["early_stop"]
    assert stop["epoch"] == end["metrics"]["best"]["epoch"] == epochs > stop["best_epoch"] > 0


@pytest.mark.parametrize("metrics", [{"recall@1": 0.5, "map@r": 0.25}, {"auc": 0.5, "eer": 0.25}])
def test_the_numbers_of_the_events_could_be_those_of_a_run(
    tmp_path: Path, metrics: dict[str, float]
) -> None:
    events = [(event.name, event.data) for event in run_events(tmp_path, metrics=metrics)]
    of = {name: [data for other, data in events if other == name] for name, _ in events}
    assert of["run_start"][0]["config"]["train"]["monitor"] in metrics
    assert of["untrained"] == [metrics] and of["run_end"][0]["metrics"]["untrained"] == metrics
    first, second = of["epoch_end"]
    assert first["metrics"] == dict.fromkeys(metrics, _MARK) and second["metrics"] == metrics
    for data in of["epoch_end"]:
        assert 0 < data["train_seconds"] < data["seconds"] and 0 < data["train_loss"] < 1
    for data in of["fill"]:
        assert 0 < data["done"] == data["total"] and 0 < data["seconds"] < 1
    losses = [data["loss"] for data in of["step"]]
    assert losses[0] == _MARK and _MARK not in losses[1:]
    assert all(0 < later < earlier < 1 for earlier, later in pairwise(losses[1:]))
    for data in of["step"]:
        assert 0 < data["lr"] == data["rates"]["head"] < 1
        assert 0 < data["input_seconds"] < data["seconds"] < 1
        assert data["images_per_second"] > 1
    for data in of["phase_start"]:
        assert all(0 < change["lr"] < 1 for change in data["changes"])
        assert [change["norm"] == "frozen" for change in data["changes"]] == [
            change["trainable"] == 0 for change in data["changes"]
        ]


def test_a_run_that_stops_early_says_so_at_its_end(tmp_path: Path) -> None:
    events = {event.name: event.data for event in run_events(tmp_path)}
    assert events["run_end"]["stopped_early"] is ("early_stop" in events)
    assert events["non_finite"]["step"] == events["step"]["step"]
    assert events["epoch_end"]["best"] is events["checkpoint"]["best"] is True
