"""Real signals and a real kill -9 to a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamkit import api
from siamkit.config import yaml_text
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir

RunValues = Callable[..., dict[str, Any]]


def start(values: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    config = folder / "config.yaml"
    config.write_text(yaml_text.dump(values))
    return subprocess.Popen(
        [sys.executable, "-m", "siamkit", "train", "--config", str(config), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Sums in another order differ in the last bit: as many threads as this process has.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(run_dir: Path, steps: int) -> None:
    events = run_dir / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if events.exists() and events.read_text().count('"event": "step"') >= steps:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not get going")


def of_four_epochs(values_of: RunValues, folder: Path) -> dict[str, Any]:
    # A network that is slow enough to be met in the middle of its run.
    backbone = {"name": "timm:resnet10t", "pretrained": False}
    return values_of(folder, backbone=backbone, train={"epochs": 4}, head="bnneck")


@pytest.fixture(scope="module")
def whole(values_of: RunValues, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that is never interrupted."""
    return api.fit(of_four_epochs(values_of, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
@pytest.mark.slow
def test_a_signal_saves_in_mid_epoch_and_the_run_goes_on_where_it_was(
    values_of: RunValues,
    whole: dict[str, Any],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert json.loads(out)["error"]["exit_code"] == code
    assert api.resume(run_dir)["history"] == whole["history"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_kill_9_then_resume_gives_the_uninterrupted_run(
    values_of: RunValues, whole: dict[str, Any], tmp_path: Path, steps: int
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, steps)
    process.kill()
    process.communicate()
    assert (run_dir / "checkpoints" / checkpoint.LATEST).exists(), "written before the first step"
    assert RunDir(run_dir).lock.exists(), "a killed process cannot take its lock away"
    resumed = api.resume(run_dir)
    assert resumed["history"] == whole["history"]
    a, b = (api.load_model(run, "last").state_dict() for run in (run_dir, whole["run_dir"]))
    assert all(a[name].equal(b[name]) for name in a)
