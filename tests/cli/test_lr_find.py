"""``siamkit lr-find``, and ``--lr auto`` of ``train``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Cli

QUICK = (
    "--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "3",
    "--batch-size", "8", "--set", "train.images_per_class=2", "--loss", "triplet",
    "--workers", "0", "--set", "freeze.warmup=1", "--head", "mlp",
)  # fmt: skip


@pytest.fixture
def quick(cli: Cli, image_folder: Path) -> Cli:
    return lambda verb, *more: cli(verb, image_folder, *QUICK, *more)


@pytest.mark.slow
def test_the_chart_and_the_rate_are_printed(quick: Cli) -> None:
    result = quick("lr-find", "--steps", "30")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("loss by learning rate, phase 1 of 2 (epoch 1, ")
    assert lines[1].startswith("┌──") and lines[1].endswith("┐")
    assert any(line.startswith("suggested rate ") for line in lines)
    assert max(map(len, lines[1:18])) <= 100


@pytest.mark.slow
def test_json_and_the_page(quick: Cli, tmp_path: Path) -> None:
    page = tmp_path / "lr.html"
    result = quick(
        "lr-find", "--phase", "1", "--steps", "25", "--from", "1e-5", "--to", "1", "-o", page,
        "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.json["schema"] == "siamkit.lr-find/1"
    assert result.json["phase"]["number"] == 1 and result.json["steps"] == 25
    assert result.json["rates"][0] == pytest.approx(1e-5)
    assert result.json["output"] == str(page) and page.stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--phase", "9"], "--phase: the plan has only 2 phases, got 9; 'siamkit inspect'"),
        (["--epoch", "9"], "--epoch: the run has only 3 epochs, got 9; train longer (--epochs N)"),
        (["--epoch", "1", "--phase", "1"], "--epoch: cannot be combined with --phase"),
        (["--steps", "2"], "--steps: must be a whole number, got 2, allowed: 20 or more"),
        (["--from", "0"], "--from: must be a learning rate, got 0.0"),
        (["--to", "1e-7"], "--to: must be at least 10 times the first rate"),
        (["-o", "."], ".: is a folder; give the path of a file, such as lr.html"),
    ],
)
def test_wrong_flags_are_refused(quick: Cli, flags: list[str], message: str) -> None:
    result = quick("lr-find", *flags)
    assert result.code == 2
    assert f"error: {message}" in result.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "--lr: must be a number, or 'auto', got 'fast'"),
        ("0", "--lr: must be greater than 0, or 'auto', got '0'"),
        ("1e6", "--lr: must be less than or equal to 1000"),
        ("nan", "--lr: must be a finite number, or 'auto', got 'nan'"),
    ],
)
def test_a_wrong_rate_is_refused(quick: Cli, value: str, message: str) -> None:
    for verb in ("train", "lr-find"):
        result = quick(verb, "--lr", value)
        assert result.code == 2
        assert f"error: {message}" in result.err


@pytest.mark.slow
def test_train_finds_its_rate_and_says_so(quick: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = quick("train", "--lr", "auto", "--run-dir", run)
    assert result.code == 0, result.err
    assert "the learning rate is auto: a range test comes before the training" in result.err
    assert "found by a range test under phase 1" in result.err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    rate = events[0]["lr_find"]["lr"]
    assert f"lr: {rate}" in (run / "config.yaml").read_text()
    page = (run / "report.html").read_text()
    assert "Loss by learning rate" in page and "found by a range test" in page


@pytest.mark.slow
def test_a_resumed_run_takes_no_auto(quick: Cli, cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert quick("train", "--run-dir", run, "--no-report").code == 0
    result = cli("train", "--resume", run, "--lr", "auto")
    assert result.code == 2
    assert "error: --lr: cannot be changed when a run goes on" in result.err


def test_inspect_takes_auto(quick: Cli) -> None:
    result = quick("inspect", "--lr", "auto")
    assert result.code == 0 and "auto x 0.1" in result.out
