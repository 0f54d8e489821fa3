from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit import api
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, Phase, Stage
from siamkit.training import inspection

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


@pytest.mark.slow
def test_the_classic_network_has_the_known_numbers_of_parameters(resnet50: dict[str, Any]) -> None:
    assert resnet50["backbone"]["parameters"] == 23_508_032
    assert resnet50["head"]["parameters"] == 1_114_752
    assert resnet50["parameters"] == 23_508_032 + 1_114_752


def test_the_two_phases_of_stages(resnet50: dict[str, Any]) -> None:
    first, second = resnet50["phases"]
    assert (first["first_epoch"], first["last_epoch"]) == (1, 2)
    assert (second["first_epoch"], second["last_epoch"]) == (3, 6)
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
    assert (first["optimizer"], second["optimizer"]) == (1_114_752 * 8, 23_177_856 * 8)
    # The peak is in the backward pass, where a part of the gradients exists.
    assert 0 == first["gradients"] < second["gradients"] <= 23_177_856 * 4
    assert second["activations"] > first["activations"] > 0


def test_each_phase_says_what_lies_before_the_boundary(resnet50: dict[str, Any]) -> None:
    first, second = resnet50["phases"]
    assert [s["in_prefix"] for s in first["stages"]] == ["all"] * 5 + ["none"]
    assert [s["in_prefix"] for s in second["stages"]] == ["all"] * 3 + ["none"] * 3
    assert first["boundary"] == {
        "name": "features", "module": "backbone", "shape": [2048], "dtype": "float32",
        "row_bytes": 8192,
    }  # fmt: skip
    assert second["boundary"] == {
        "name": "layer2", "module": "backbone.model.layer2.3", "shape": [512, 8, 8],
        "dtype": "float16", "row_bytes": 65536,
    }  # fmt: skip
    assert first["flops"]["prefix"] > second["flops"]["prefix"] > 0
    assert first["flops"]["forward"] == second["flops"]["forward"]
    assert "measured" not in first


def test_a_policy_that_spoils_the_boundary_is_told(run_values: RunValues) -> None:
    report = api.inspect(run_values(freeze="bitfit"))
    (phase,) = report["phases"]
    assert phase["boundary"] is None and phase["flops"]["prefix"] == 0
    (notice,) = (text for text in report["notices"] if "stem" in text)
    assert "no part of the network can be cached" in notice


def test_a_stage_that_trains_from_a_block_on_lies_partly_in_the_prefix(
    run_values: RunValues,
) -> None:
    values = run_values(
        backbone={"name": "timm:resnet18", "pretrained": False},
        freeze={"name": "regex", "patterns": [r"layer4\.1\.", "^head"]},
    )
    (phase,) = api.inspect(values)["phases"]
    inside = {stage["name"]: stage["in_prefix"] for stage in phase["stages"]}
    assert inside == {
        "stem": "all", "layer1": "all", "layer2": "all", "layer3": "all", "layer4": "part",
        "head": "none",
    }  # fmt: skip
    assert phase["boundary"]["name"] == "layer4.0"


def test_measuring_says_how_each_phase_would_be_computed_and_fills_nothing(
    run_values: RunValues, tmp_path: Path
) -> None:
    values = run_values(engine={"cache": "always"}, data={"views": 2})
    first, second = (phase["measured"] for phase in api.inspect(values, measure=True)["phases"])
    assert (first["mode"], first["boundary"]) == ("cached", "features")
    assert (second["mode"], second["boundary"]) == ("cached", "layer2")
    assert first["missing"] == first["rows"] == 24 + 24 + 24  # one epoch: one view
    assert second["rows"] == 2 * 24 + 24 + 24
    for measured in (first, second):
        assert measured["kernel"] and measured["prefix_seconds"] > 0 and measured["live"] > 0
    assert not (tmp_path / "cache").exists() and not Path(values["run_dir"]).exists()


def test_measuring_a_network_that_runs_whole_says_why(run_values: RunValues) -> None:
    (phase,) = api.inspect(run_values(freeze="bitfit"), measure=True)["phases"]
    assert phase["measured"]["mode"] == "whole" and phase["measured"]["reason"]


def test_a_run_is_not_measured_again(run_values: RunValues, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"events\.jsonl"):
        api.inspect(tmp_path / "run", measure=True)


def test_every_parameter_is_listed_with_its_flag_in_each_phase(resnet50: dict[str, Any]) -> None:
    rows = resnet50["parameters_list"]
    assert sum(row["numel"] for row in rows) == resnet50["parameters"]
    for phase, span in enumerate(resnet50["phases"]):
        trained = sum(row["numel"] for row in rows if row["trainable"][phase])
        assert trained == span["trainable_parameters"]


def test_the_weights_that_a_training_would_start_from_are_named(
    run_values: RunValues, tmp_path: Path
) -> None:
    def weights(**backbone: Any) -> str:
        values = run_values(backbone={"name": "timm:test_resnet", **backbone}, freeze="freeze-all")
        return str(api.inspect(values)["backbone"]["weights"])

    file = tmp_path / "some.pth"
    net = api.create_model("timm:test_resnet", pretrained=False)
    torch.save(net.backbone.model.state_dict(), file)
    assert weights() == weights(pretrained=True) == "pretrained (loaded by train, not by inspect)"
    assert weights(pretrained=False) == "random"
    assert "some.pth" in weights(weights=str(file))
    values = {k: v for k, v in run_values(freeze="freeze-all").items() if k != "backbone"}
    report = siamkit.inspect(values, backbone=Plain())
    assert report["backbone"]["weights"].endswith("Plain")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3))


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


@pytest.mark.slow
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
    spans = [(p["first_epoch"], p["trainable_parameters"]) for p in report["phases"]]
    assert spans == [(p["first_epoch"], p["trainable_parameters"]) for p in result["phases"]]


def test_phases_are_inspected_with_one_thread_and_told(run_values, monkeypatch):
    """On a busy machine, each small operation would wait for all of its threads."""
    before, seen, told = torch.get_num_threads(), [], []
    torch.set_num_threads(3)
    try:
        actual = inspection._phase
        monkeypatch.setattr(
            inspection, "_phase",
            lambda *a: seen.append(torch.get_num_threads()) or actual(*a),
        )  # fmt: skip
        api.inspect(run_values(), progress=lambda *step: told.append(step))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]
    assert told == [("inspecting", 0, 2), ("inspecting", 1, 2)]


def test_the_head_is_that_of_a_run_on_the_data(run_values: RunValues, tmp_path: Path) -> None:
    values = run_values()
    del values["head"]
    assert api.inspect(values)["head"]["name"] == "multistage"
    # Only the header of the table counts, because its images may not be at hand yet.
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a,b,same\nmissing.png,other.png,1\n")
    found = api.inspect({**values, "data": {**values["data"], "path": str(pairs)}})
    assert found["head"]["name"] == "residual"


@pytest.mark.parametrize(
    ("trains", "told"),
    [
        ("", None), ("ab", None), ("e", None), ("cdef", None),
        ("a", "only 1 of 2 parameter tensors of 'stem' train"),
        ("bcd", "only 1 of 2 parameter tensors of 'stem' train"),
        ("cef", "only 1 of 2 parameter tensors of 'body' train"),
    ],
)  # fmt: skip
def test_only_a_stage_before_the_last_that_trains_in_part_spoils_the_boundary(
    trains: str, told: str | None
) -> None:
    stages = [Stage(name, tuple(own), (name,)) for name, own in
              (("stem", "ab"), ("body", "cd"), ("head", "ef"))]  # fmt: skip
    setup: Any = SimpleNamespace(schedule=SimpleNamespace(stages=stages))
    phase = Phase(2, 4, FreezePlan(frozenset(trains)))
    for boundary, cached in ((None, "no part"), ({"name": "x"}, "only the part up to 'x'")):
        found = inspection._spoilt(setup, phase, boundary)
        assert found is None if told is None else found is not None and (
            found.startswith(f"epochs 3-4: {told}, but backward")
            and found.endswith(f"{cached} of the network can be cached")
        )  # fmt: skip
