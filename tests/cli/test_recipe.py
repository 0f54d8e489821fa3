"""``siamkit train --recipe auto``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from siamkit.comparison import candidates, pace
from siamkit.config import read_file

from .conftest import Cli

QUICK = (
    "--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32",
    "--batch-size", "8", "--set", "train.images_per_class=2", "--workers", "0", "--views", "1",
)  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trials of two candidates."""
    monkeypatch.setattr(candidates, "CANDIDATES", candidates.CANDIDATES[2:])
    monkeypatch.setattr(pace, "_TRIED", 4)
    monkeypatch.setattr(pace, "FEWEST", 2)
    monkeypatch.setattr(pace, "_FINAL", 6)


@pytest.mark.usefixtures("short")
@pytest.mark.slow
def test_it_says_how_long_it_takes_and_what_it_chose(
    cli: Cli, image_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = cli(
        "train", image_folder, *QUICK, "--recipe", "auto", "--budget", "10m", "--run-dir", run,
        "--resume", "auto",
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert "recipe: measures how long a step takes; the budget is 10 min 00 s ..." in lines
    assert any(
        line.startswith(
            "recipe: compares 2 recipes on the training classes, then trains with the best one; "
            "all of it takes about "
        )
        for line in lines
    )
    assert any(line.startswith("run 1 of 2: untrained: recall@1 ") for line in lines)
    assert any(line.startswith("recipe   ") and "the best of 4 recipes" in line for line in lines)
    page = (run / "report.html").read_text()
    assert "the best of 4 recipes on the training classes" in page
    assert "Recipes that were tried on the training classes" in page
    assert page.count('data-column="95 % interval"') >= 4
    again = cli(
        "train", image_folder, *QUICK, "--recipe", "auto", "--run-dir", run, "--resume", "auto",
        "--json",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert "recipe: " not in again.err, "a run that has begun keeps its recipe"
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert again.json["metrics"] == metrics


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "best"], "--recipe: is no recipe, got 'best', allowed: 'auto' or 'augment'"),
        (["--budget", "5m"], "--budget: works only with a recipe that is chosen; add --recipe"),
        (["--recipe", "auto", "--budget", "5"], "--budget: must be a time, got '5'"),
        (["--augment", "auto", "--epochs", "3"], "--epochs: cannot be combined with a recipe"),
        (["--augment", "auto", "--resume", "x"], "--augment: cannot be combined with --resume RUN"),
        (["--augment", "marks", "--recipe", "augment"], "there is nothing to choose"),
        (["--recipe", "auto", "--epochs", "3"], "--epochs: cannot be combined with a recipe"),
        (["--recipe", "auto", "--resume", "x"], "--recipe: cannot be combined with --resume RUN"),
    ],
)
def test_what_is_wrong_is_named(
    cli: Cli, image_folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    result = cli("train", image_folder, "--run-dir", tmp_path / "run", *flags)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_augment_auto_chooses_the_augmentation_alone(
    cli: Cli, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("data: {augment: {preset: faces, blur: 0.5}}\n")
    command = (
        "train", image_folder, *QUICK, "--config", tmp_path / "c.yaml", "--augment", "auto",
        "--set", "data.augment.rotate=7", "--budget", "10m", "--run-dir", tmp_path / "run",
        "--no-report", "--resume", "auto",
    )  # fmt: skip
    result = cli(*command)
    assert result.code == 0, result.err
    trials = json.loads((tmp_path / "run" / "recipe" / "comparison.json").read_text())
    names = {arm["name"] for arm in trials["arms"] if arm["trains"]}
    assert names == {"marks", "objects", "documents", "none"}
    config = read_file(tmp_path / "run" / "config.yaml")
    assert config["head"]["name"] == "multistage"
    augment = config["data"]["augment"]
    assert augment["preset"] in names, "the flag is above the file"
    assert (augment["rotate"], augment["blur"]) == (7.0, 0.0)
    assert all(arm["values"]["data.augment.rotate"] == 7 for arm in trials["arms"] if arm["trains"])
    again = cli(*command)
    assert again.code == 0, again.err


@pytest.mark.parametrize("verb", ["inspect", "lr-find"])
def test_only_train_chooses_the_augmentation(cli: Cli, image_folder: Path, verb: str) -> None:
    result = cli(verb, image_folder, *QUICK, "--augment", "auto")
    assert result.code == 2
    assert "--augment: only 'siamkit train' can choose the augmentation, got 'auto'" in result.err


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_what_is_set_is_kept(cli: Cli, image_folder: Path, tmp_path: Path) -> None:
    result = cli(
        "train", image_folder, *QUICK, "--recipe", "auto", "--loss", "triplet", "--head", "linear",
        "--run-dir", tmp_path / "run", "--no-report",
    )  # fmt: skip
    assert result.code == 0, result.err
    trials = json.loads((tmp_path / "run" / "recipe" / "comparison.json").read_text())
    names = [arm["name"] for arm in trials["arms"] if arm["trains"]]
    assert names == ["full, marks", "stages, marks"]
    assert trials["config"]["loss.name"] == "triplet"
    assert trials["config"]["head.name"] == "linear"
