"""A run that is read once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from siamkit import api
from siamkit.config import calibration_config, is_resolved
from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.summary import summarize
from siamkit.report.html.gather import gather
from siamkit.runs.open import OpenRun

RunValues = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, values_of: RunValues) -> Path:
    folder = tmp_path_factory.mktemp("opened") / "run"
    api.fit(values_of(folder, train={"epochs": 2}))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> OpenRun:
    return api.open_run(shutil.copytree(trained, tmp_path / "run"))


def test_everything_is_there(run: OpenRun) -> None:
    assert is_resolved(run.config) and run.config is run.config
    assert run.checkpoint("best") is run.checkpoint("best")
    assert len(run.history) == 2 == len([e for e in run.log.events if e["event"] == "epoch_end"])
    assert run.metrics["best"].keys() >= {"recall@1", "map@r"}
    kept = run.held_out("val")
    assert kept is not None and run.held_out("test") is None
    assert run.calibration() == run.calibration_for(kept)
    assert "backbone:" in run.config_text


def test_what_is_missing_is_told(run: OpenRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run directory"):
        api.open_run(tmp_path)
    with pytest.raises(ConfigError, match="which: no such checkpoint, got 'latest'"):
        run.checkpoint("latest")  # type: ignore[arg-type]
    kept = run.held_out("val")
    assert kept is not None
    fitted = run.calibration().provenance.epoch
    told = rf"fitted for another epoch's network, got {fitted}, allowed: {kept.epoch + 8}"
    for network in ("0", "z"):
        with pytest.raises(CheckpointError, match=told):
            run.calibration_for(replace(kept, network=network, epoch=kept.epoch + 7))
    run.dir.calibration.unlink()
    assert run.calibration_for(kept) is None
    for text in ("[]", "{", '{"metrics": 3}'):
        run.dir.metrics.write_text(text)
        with pytest.raises(CheckpointError, match=r"metrics\.json: the file is damaged"):
            _ = api.open_run(run.path).metrics
    run.dir.metrics.unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.json: the file is missing"):
        _ = api.open_run(run.path).metrics
    shutil.rmtree(run.dir.checkpoints)
    other = api.open_run(run.path)
    assert other.history == []
    with pytest.raises(CheckpointError, match="saved no checkpoint yet"):
        other.checkpoint("last")
    with pytest.raises(CheckpointError, match="has no best epoch yet"):
        other.checkpoint("best")


def test_a_file_that_only_an_unfinished_run_may_lack(run: OpenRun) -> None:
    assert run.ended and run.final_held_out("test") is None
    assert run.final_held_out("val") is not None
    run.dir.calibration.unlink()
    notices = gather(api.open_run(run.path)).notices
    assert "threshold is not the run's own" in notices[-1] and "calibrate" in notices[-1]
    (run.dir.embeddings / "val.safetensors").unlink()
    run.dir.metrics.unlink()
    with pytest.raises(CheckpointError, match=r"val\.safetensors: the file is missing"):
        run.final_held_out("val")
    notices = gather(api.open_run(run.path)).notices
    assert "final metrics are left out" in notices[-1]
    assert "embeddings of the held-out images are left out" in notices[-2]
    with pytest.raises(CheckpointError, match=r"val\.safetensors: the file is missing"):
        api.save_pretrained(run.path, run.path / "saved")
    lines = run.dir.events.read_text().splitlines(keepends=True)
    run.dir.events.write_text("".join(line for line in lines if '"run_end"' not in line))
    unfinished = api.open_run(run.path)
    assert not unfinished.ended and unfinished.final_held_out("val") is None
    assert unfinished.metrics == {}


def test_the_report_and_evaluate_give_the_same_figures(run: OpenRun) -> None:
    facts = gather(run).held
    evaluated = api.evaluate(run.path, device="cpu")
    kept = run.held_out("val")
    assert facts is not None and facts.verified is not None and facts.decision is not None
    assert facts.retrieval is not None and kept is not None
    # By the very embeddings that the report reads, to the last bit.
    own = summarize(kept.embeddings, kept.images, threshold=run.calibration().threshold)
    shown = facts.verified.to_json()
    assert shown == {name: own["verification"][name] for name in shown}
    at = own["verification"]["at_threshold"]
    assert (facts.decision.threshold, facts.decision.far, facts.decision.frr) == (
        at["threshold"], at["far"], at["frr"],
    )  # fmt: skip
    ranked = facts.retrieval.to_json()
    assert ranked == {name: own["retrieval"][name] for name in ranked}
    # 'siamkit evaluate' embeds again, perhaps with another kernel: equal up to rounding.
    for name in ("auc", "eer", "same", "different"):
        assert shown[name] == pytest.approx(evaluated["verification"][name], abs=1e-3)
    assert ranked["recall@1"] == pytest.approx(evaluated["retrieval"]["recall@1"], abs=1e-3)
    threshold = evaluated["verification"]["at_threshold"]["threshold"]
    assert threshold == facts.decision.threshold
    chosen_on_them, *others = evaluated["notices"]
    assert "chose the best epoch" in chosen_on_them and others == own["notices"]


def test_evaluate_says_why_there_are_no_errors_at_a_threshold(run: OpenRun) -> None:
    values = json.loads(run.dir.calibration.read_text())
    run.dir.calibration.write_text(json.dumps({**values, "threshold": "high"}))
    found = api.evaluate(run.path, device="cpu")
    assert found["verification"]["at_threshold"] is None
    assert any("no error rates at a threshold" in text for text in found["notices"])


def test_a_copy_with_changes_counts_as_unresolved(run: OpenRun) -> None:
    assert not is_resolved(run.config.model_copy(update={"report": False}))
    assert not is_resolved(type(run.config)())


def test_a_calibration_section_of_its_own() -> None:
    assert calibration_config(None, 0.1).wanted == "far"
    with pytest.raises(ConfigError, match="far works only with the target far"):
        calibration_config("eer", 0.1)
    with pytest.raises(ConfigError, match="target: must be"):
        calibration_config("luck", None)  # type: ignore[arg-type]
