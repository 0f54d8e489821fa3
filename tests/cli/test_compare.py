"""``siamkit compare``."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli

QUICK = (
    "--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "2",
    "--batch-size", "8", "--set", "train.images_per_class=2", "--loss", "triplet",
    "--workers", "0", "--head", "linear", "--views", "1", "--folds", "2", "--seeds", "1",
)  # fmt: skip


@pytest.fixture
def quick(cli: Cli, image_folder: Path) -> Callable[..., Any]:
    return lambda *more: cli("compare", image_folder, *QUICK, *more)


def test_the_table_the_verdict_and_the_files_are_printed(quick: Any, tmp_path: Path) -> None:
    result = quick("--policies", "freeze-all,full", "-o", tmp_path / "c")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert "2 of 2 runs per arm (2 folds x 1 seed)" in lines[0]
    heads = next(line for line in lines if line.startswith("arm "))
    assert heads.split()[:3] == ["arm", "runs", "recall@1"]
    names = [line.split("  ")[0] for line in lines[lines.index(heads) + 2 :][:4]]
    assert sorted(names) == ["closed form", "freeze-all", "full", "untrained"]
    assert any(line.endswith("in 2 runs.") and "is the best" in line for line in lines)
    assert f"report: {tmp_path / 'c' / 'comparison.html'}" in lines
    assert f"best configuration: {tmp_path / 'c' / 'best.yaml'}" in lines
    progress = result.err.splitlines()
    assert f"comparison: {tmp_path / 'c'}" in progress
    assert "run 1 of 2: untrained ..." in progress
    assert any(line.startswith("run 2 of 2: full: recall@1 0.") for line in progress)
    assert any(line.endswith("s left") for line in progress)


@pytest.mark.slow
def test_json_is_one_object(quick: Any, tmp_path: Path) -> None:
    place = tmp_path / "c"
    result = quick("--policies", "full", "--metric", "map@r", "-o", place, "--json", "--quiet")
    assert result.code == 0, result.err
    assert result.json["schema"] == "siamkit.compare/1"
    assert result.json["metric"] == "map@r"
    assert "run 1 of 2" not in result.err
    again = quick("--policies", "full", "--metric", "map@r", "-o", place, "--json", "--quiet")
    assert again.json == result.json


@pytest.mark.slow
def test_any_key_is_varied(quick: Any, tmp_path: Path) -> None:
    result = quick(
        "--policies", "full", "--vary", "optimizer.lr=0.001,0.01", "--augment", "none,marks",
        "-o", tmp_path / "c", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    names = {row["name"] for row in result.json["arms"] if row["trains"]}
    assert names == {
        "none, optimizer.lr=0.001", "none, optimizer.lr=0.01",
        "marks, optimizer.lr=0.001", "marks, optimizer.lr=0.01",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policies", "full,fulll"], "arm 'fulll': freeze.name: unknown freeze policy 'fulll'"),
        (["--losses", "triplet,"], "loss.name"),
        (["--budget", "soon"], "--budget: must be a time, got 'soon', allowed: such as 90s"),
        (["--budget", "30steps"], "--budget: must be a time"),
        (["--metric", "eer"], "--metric: is unknown, got 'eer', allowed: recall@1 or map@r"),
        (["--vary", "loss"], "--vary: must be KEY=V1,V2"),
        (["--tune", "train.epochz=1,2"], "train.epochz"),
        (["--tune", "optimizer.lr=1", "--tune", "optimizer.lr=2"],
         "--tune optimizer.lr: is given twice; write optimizer.lr=V1,V2,V3"),
        (["--losses", "triplet", "--vary", "loss.name=supcon"],
         "loss.name: is varied twice; give all of its values to --vary"),
        (["--run-dir", "x"], "--run-dir: has no effect on a comparison; leave it out"),
        (["--track", "tensorboard"], "--track: has no effect on a comparison"),
        (["--report"], "--report: has no effect on a comparison"),
        (["--folds", "9"], "data.folds: there are too few classes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(quick: Any, tmp_path: Path, flags: list[str], message: str) -> None:
    result = quick("-o", tmp_path / "c", *flags)
    assert result.code in (2, 3), result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "c").exists()


def test_help_lists_no_flag_that_is_refused(cli: Cli) -> None:
    shown = cli("compare", "--help").out
    listed = [line.split()[0] for line in shown.replace("│", " ").splitlines() if line.strip()]
    assert {"--epochs", "--workers", "--policies"} <= set(listed)
    assert not {"--run-dir", "--report", "--track"} & set(listed)
    assert "--run-dir" in cli("train", "--help").out


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_table(image_folder: Path, tmp_path: Path) -> None:
    def command(place: Path) -> list[str]:
        return [
            sys.executable, "-m", "siamkit", "compare", str(image_folder), *QUICK,
            "--policies", "freeze-all,stages,full", "--json", "-o", str(place),
        ]  # fmt: skip

    env = {**os.environ, "SIAMKIT_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(command(tmp_path / "a"), env=env, capture_output=True, check=True)
    rng, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(
            command(tmp_path / "b"), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if kills == 4:
            out, _ = process.communicate()
            break
        runs = tmp_path / "b" / "runs"
        while not runs.is_dir() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.3, 3.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        out, _ = process.communicate()
        if process.returncode == 0:
            break
    assert kills > 0
    assert process.returncode == 0
    assert figures(json.loads(out)) == figures(json.loads(whole.stdout))


@pytest.mark.slow
def test_two_processes_share_the_work(image_folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "siamkit", "compare", str(image_folder), *QUICK,
        "--policies", "freeze-all,full", "--json", "-o", str(tmp_path / "c"),
    ]  # fmt: skip
    env = {**os.environ, "SIAMKIT_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    ended = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    first, second = (json.loads(out) for out, _ in ended)
    assert figures(first) == figures(second)
    trained = [err.decode().count(" s)\n") for _, err in ended]
    assert sum(trained) == 8, "no run is trained twice"


def figures(result: Any) -> dict[str, Any]:
    return {row["name"]: (row["value"], row["interval"], row["to_best"]) for row in result["arms"]}
