"""``--track``: the built-in tracker, and the one of the how-to as an installed plugin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from siamkit.config import yaml_text

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "track.md"

# Writes down how it is called, in the folder that the process is in.
MLFLOW = """
import json
from pathlib import Path

def record(name):
    def call(*args, **kwargs):
        with Path("calls.jsonl").open("a") as file:
            file.write(json.dumps([name, args, kwargs]) + "\\n")
    return call

start_run, log_dict, log_metrics = map(record, ("start_run", "log_dict", "log_metrics"))

def end_run():
    if Path("calls.jsonl").exists():  # mlflow does nothing where no run is active
        record("end_run")()
"""

FLAGS = [
    "--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32", "--head", "linear",
    "--freeze-policy", "freeze-all", "--epochs", "2", "--batch-size", "8", "--workers", "0",
    "--cache", "off", "--no-report",
]  # fmt: skip


@pytest.fixture
def plugin() -> str:
    """The source of the how-to's tracker."""
    found = re.search(r"^```python\n(import siamkit\n.*?)^```$", HOWTO.read_text(), re.M | re.S)
    assert found
    return found[1]


def test_the_tracker_of_the_howto_is_told_of_a_run(
    cli, install, plugin, image_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    install("siamkit-mlflow", plugin)
    (tmp_path / "site" / "mlflow.py").write_text(MLFLOW)
    listed = cli("list", "trackers", "--json").json["entries"]
    assert {e["name"]: e["distribution"] for e in listed}["mlflow"] == "siamkit-mlflow"
    tracks = ["--track", "mlflow", "--track", "tensorboard"]
    done = cli("train", image_folder, *FLAGS, *tracks, "--run-dir", "run", "--json")
    assert done.code == 0, done.err
    lines = (tmp_path / "calls.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    names = ["start_run", "log_dict", "log_metrics", "log_metrics", "end_run"]
    assert [name for name, _, _ in calls] == names
    assert calls[0][2] == {"run_name": "run"}
    assert calls[1][1][0]["track"] == [{"name": "mlflow"}, {"name": "tensorboard"}]
    assert [kwargs["step"] for _, _, kwargs in calls[2:4]] == [1, 2]
    assert calls[3][1][0]["recall_at_1"] == done.json["history"][1]["recall@1"]
    assert (tmp_path / "run" / "tensorboard" / "held-out").is_dir()


def test_a_trackers_own_missing_package_is_told_before_anything_is_written(
    cli, install, plugin, image_folder, tmp_path
):
    install("siamkit-mlflow", plugin.replace("mlflow", "no_such_mlflow"))
    run = tmp_path / "run"
    done = cli("train", image_folder, *FLAGS, "--track", "no_such_mlflow", "--run-dir", run)
    assert done.code == 5
    assert "tracker 'no_such_mlflow' of siamkit-mlflow failed to build" in done.err
    assert "No module named 'no_such_mlflow'" in done.err
    assert not run.exists()


def test_the_example_keeps_the_contract(cli, install, plugin, tmp_path, monkeypatch):
    from siamkit.testing import check_tracker

    monkeypatch.chdir(tmp_path)
    install("siamkit-mlflow", plugin)
    (tmp_path / "site" / "mlflow.py").write_text(MLFLOW)
    assert cli("list", "trackers").code == 0  # finds the plugin
    check_tracker("mlflow")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--track", "tensorbord"], "--track: unknown tracker 'tensorbord'; did you mean "
         "'tensorboard'? 'siamkit list trackers' lists them"),
        (["--track", "tensorboard", "--track", "tensorboard"], "--track: names 'tensorboard' "
         "twice"),
        (["--set", "track=3"], "--set track: must be a list of names, got 3"),
        (["--set", "track=[{name: tensorboard, x: 1}]"], "--set track.0.x: unknown key (tracker "
         "'tensorboard'), allowed: none"),
    ],
)  # fmt: skip
def test_wrong_trackers_are_told(cli, flags, told):
    done = cli("config", "show", *flags)
    assert done.code == 2
    assert done.err.startswith(f"error: {told}")


def test_the_flag_is_laid_over_a_config_file(cli, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("track: [tensorboard]\n")
    shown = yaml_text.load(cli("config", "show", "--config", config).out)
    assert shown["track"] == [{"name": "tensorboard"}]
    shown = yaml_text.load(cli("config", "show", "--config", config, "--set", "track=[]").out)
    assert shown["track"] == []
    shown = yaml_text.load(cli("config", "show", "--track", "tensorboard").out)
    assert shown["track"] == [{"name": "tensorboard"}]


def test_the_schema_takes_names_and_mappings(cli):
    items = cli("config", "schema", "--json").json["json_schema"]["properties"]["track"]["items"]
    assert {"type": "string"} in items["anyOf"] and len(items["anyOf"]) == 2
