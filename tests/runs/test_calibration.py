"""The threshold that a training ends with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError
from siamkit.json_files import unsealed
from siamkit.portable.calibration import Calibration, Provenance, Rate
from siamkit.runs.calibration import calibration_of
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir

RunValues = Callable[..., dict[str, Any]]


def test_what_cannot_be_fitted_is_a_notice_and_no_failure(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1}, calibration={"far": 1e-6})
    seen: list[siamkit.Event] = []
    result = api.fit(values, listeners=[seen.append])
    assert result["calibration"] is None
    assert not (Path(values["run_dir"]) / "calibration.json").exists()
    notices = [event.data["text"] for event in seen if event.name == "notice"]
    assert any("no threshold was fitted: too few different pairs" in text for text in notices)
    with pytest.raises(CheckpointError, match=r"siamkit\.calibrate"):
        siamkit.load_embedder(values["run_dir"]).verify("a.png", "b.png")


def test_a_run_that_is_resumed_has_the_threshold_of_one_that_is_not(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    first = api.fit(values)["calibration"]
    path = Path(values["run_dir"]) / "calibration.json"
    assert unsealed(json.loads(path.read_text()), "file") == first
    path.unlink()
    assert api.resume(values["run_dir"])["calibration"] == first
    assert siamkit.load_embedder(values["run_dir"]).calibration.to_json() == first


def test_a_threshold_that_the_user_chose_stays(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    api.fit(values)
    chosen = siamkit.calibrate(values["run_dir"], far=0.1)
    assert api.resume(values["run_dir"])["calibration"] == chosen.to_json()


def test_the_threshold_belongs_to_one_network(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 3})
    result = api.fit(values)
    last = siamkit.load_embedder(values["run_dir"], "last")
    if result["metrics"]["best"]["epoch"] == 3:
        assert last.calibration == siamkit.load_embedder(values["run_dir"]).calibration
    else:
        with pytest.raises(CheckpointError, match="another network") as caught:
            _ = last.calibration
        assert caught.value.hint == "use the network of the best epoch"


def test_without_kept_embeddings_the_images_are_embedded_again(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    first = api.fit(values)["calibration"]
    (Path(values["run_dir"]) / "embeddings/val.safetensors").unlink()
    found = siamkit.calibrate(values["run_dir"])
    assert found.threshold == pytest.approx(first["threshold"], abs=1e-3)
    assert found.provenance.digest == first["provenance"]["digest"]


FILES = {"model.safetensors": "m", "frozen.safetensors": "f"}
ONE, TWO, THREE = (f"epoch-{n:05d}-step-{n:08d}" for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("used", "best", "same_network", "told", "hint"),
    [
        (TWO, TWO, False, f"checkpoint {TWO} before it changed", "fits a threshold"),
        (TWO, ONE, False, f"checkpoint {TWO} before it changed", "fits a threshold"),
        (THREE, THREE, True, f"checkpoint {TWO}, and checkpoint {THREE} is in use",
         "fits a threshold"),
        (ONE, THREE, True, f"checkpoint {TWO}, and checkpoint {ONE} is in use",
         "use the network of the best epoch"),
        (THREE, ONE, False, f"checkpoint {TWO}, and checkpoint {THREE} is in use",
         "use the network of the best epoch"),
    ],
)  # fmt: skip
def test_a_threshold_of_another_network_is_refused_with_the_next_step(
    used: str, best: str, same_network: bool, told: str, hint: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    saved = SavedCheckpoint(tmp_path / used, {"best_checkpoint": best}, {}, FILES)
    made = Calibration(
        "eer", None, 0.5, Rate(0.1, 0.0, 0.2), Rate(0.1, 0.0, 0.2), 12.0, -5.0,
        Provenance("photos", "val", "d", 10, 5, 4, 41, True, TWO,
                   saved.network if same_network else "another", 1, "0.1"),
    )  # fmt: skip
    made.save(run.calibration)
    with pytest.raises(CheckpointError) as caught:
        calibration_of(run, saved)
    assert f"the threshold was fitted for another network, that of {told}" in str(caught.value)
    assert hint in str(caught.value)


def test_a_threshold_of_the_network_is_returned(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    saved = SavedCheckpoint(tmp_path / TWO, {"best_checkpoint": ONE}, {}, FILES)
    with pytest.raises(CheckpointError, match="the run has no threshold"):
        calibration_of(run, saved)
    made = Calibration(
        "eer", None, 0.5, Rate(0.1, 0.0, 0.2), Rate(0.1, 0.0, 0.2), 12.0, -5.0,
        Provenance("photos", "val", "d", 10, 5, 4, 41, True, TWO, saved.network, 1, "0.1"),
    )  # fmt: skip
    made.save(run.calibration)
    assert calibration_of(run, saved) == made
