from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamkit import api

RunValues = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def resnet50() -> dict[str, Any]:
    return api.inspect(
        {
            "backbone": {"name": "resnet50", "pretrained": False},
            "head": "mlp",
            "freeze": "stages",
            "train": {"epochs": 6},
            "data": {"image_size": 64},
        },
        parameters=True,
    )


def test_the_classic_network_has_the_known_numbers_of_parameters(resnet50: dict[str, Any]) -> None:
    assert resnet50["backbone"]["parameters"] == 23_508_032
    assert resnet50["head"]["parameters"] == 1_114_752
    assert resnet50["parameters"] == 23_508_032 + 1_114_752


def test_the_two_phases_of_stages(resnet50: dict[str, Any]) -> None:
    first, second = resnet50["phases"]
    assert (first["start_epoch"], first["end_epoch"]) == (0, 2)
    assert (second["start_epoch"], second["end_epoch"]) == (2, 6)
    assert first["trainable_parameters"] == 1_114_752
    assert second["trainable_parameters"] == 23_177_856
    names = [stage["name"] for stage in second["stages"]]
    assert names == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    by_name = {stage["name"]: stage for stage in second["stages"]}
    assert by_name["layer4"]["lr"] == pytest.approx(by_name["head"]["lr"] / 10)
    assert by_name["layer2"]["lr"] == 0 and by_name["layer2"]["trainable"] == 0
    assert [s["needs_backward"] for s in second["stages"]] == [False] * 3 + [True] * 3
    assert by_name["layer3"]["norm"] == "affine" and by_name["layer1"]["norm"] == "frozen"


def test_memory_grows_with_what_trains(resnet50: dict[str, Any]) -> None:
    first, second = (phase["memory"] for phase in resnet50["phases"])
    assert first["weights"] == second["weights"]
    assert second["gradients"] == 23_177_856 * 4 and second["optimizer"] == 23_177_856 * 8
    assert second["activations"] > 100 * first["activations"] > 0


def test_every_parameter_is_listed_with_its_flag_in_each_phase(resnet50: dict[str, Any]) -> None:
    rows = resnet50["parameters_list"]
    assert sum(row["numel"] for row in rows) == resnet50["parameters"]
    for phase, span in enumerate(resnet50["phases"]):
        trained = sum(row["numel"] for row in rows if row["trainable"][phase])
        assert trained == span["trainable_parameters"]


def test_inspecting_trains_and_writes_nothing(run_values: RunValues) -> None:
    values = run_values()
    api.inspect(values)
    assert not Path(values["run_dir"]).exists()


def test_a_proxy_loss_is_counted_with_the_classes_of_the_data(run_values: RunValues) -> None:
    report = api.inspect(run_values(loss="proxy-anchor"), parameters=True)
    assert report["loss"]["parameters"] == 4 * 8  # four training classes, eight dimensions
    assert report["parameters_list"][-1]["stage"] == "loss"


def test_a_metric_driven_policy_is_told_to_be_a_forecast(run_values: RunValues) -> None:
    freeze = {"name": "gradual-unfreeze", "trigger": "plateau"}
    report = api.inspect(run_values(freeze=freeze))
    assert report["metric_driven"] and any("recall@1" in notice for notice in report["notices"])
    assert len(report["phases"]) == 1


def test_a_run_is_inspected_with_the_phases_it_went_through(run_values: RunValues) -> None:
    values = run_values(
        freeze={"name": "gradual-unfreeze", "trigger": "plateau", "patience": 1},
        optimizer={"lr": 1e-12},
        train={"epochs": 4},
    )
    result = api.fit(values)
    assert len(result["phases"]) > 1, "a rate of nothing improves nothing"
    report = api.inspect(result["run_dir"])
    assert report["backbone"]["weights"] == "the run's own"
    spans = [(p["start_epoch"], p["trainable_parameters"]) for p in report["phases"]]
    assert spans == [(p["start_epoch"], p["trainable_parameters"]) for p in result["phases"]]
