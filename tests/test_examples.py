"""Every example runs, in a short form."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import siamkit
from siamkit import api
from siamkit.cli.app import main
from siamkit.config import read_file, read_preset

EXAMPLES = Path(__file__).parent.parent / "examples"
BUILT_IN = ("--backbone", "timm:resnet10t", "--no-pretrained")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart.yaml", "greyscale_domain_shift.yaml"])
def test_an_example_config_trains(name: str, image_folder: Path, tmp_path: Path) -> None:
    code = main(
        ["train", str(image_folder), "--config", str(EXAMPLES / name), *BUILT_IN, "--quiet",
         "--image-size", "32", "--epochs", "3", "--batch-size", "8",
         "--run-dir", str(tmp_path / "r"), "--set", "train.patience=null"]
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "r" / "metrics.json").exists()


def test_the_greyscale_example_does_what_it_says() -> None:
    config = api.load_config(read_file(EXAMPLES / "greyscale_domain_shift.yaml"))
    assert config.data.in_chans == 1 and config.data.augment.horizontal_flip == 0
    net = api.create_model("timm:resnet10t", pretrained=False, in_chans=1)
    phases = siamkit.phases(net, config.freeze.name, epochs=16, **config.freeze.options)
    assert len(phases[-1].plan.trainable) > len(phases[1].plan.trainable)
    mult = phases[-1].plan.lr_mult
    assert mult["stem"] < mult["layer1"] < mult["layer4"] < 0.1


@pytest.mark.slow
def test_the_classic_recipe_runs(
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        sys, "argv",
        ["classic_recipe.py", str(image_folder), "--no-pretrained", "--epochs", "4",
         "--image-size", "32", "--run-dir", str(tmp_path / "run")],
    )  # fmt: skip
    runpy.run_path(str(EXAMPLES / "classic_recipe.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "epochs 1-3: 1,114,752 of 24,622,784 parameters train" in out
    assert "epochs 4-4: 23,177,856 of 24,622,784 parameters train" in out
    assert "backbone.model.layer4.2.conv3.weight" in out.split("epochs 4-4")[1]
    assert "backbone.model" not in out.split("epochs 4-4")[0]


def test_the_classic_preset_is_the_recipe(run_values: Callable[..., dict[str, object]]) -> None:
    config = api.load_config(read_preset("classic"))
    assert (config.head.name, config.loss.name, config.freeze.name) == ("mlp", "triplet", "stages")
    assert config.head.options == {"hidden": 512, "dim": 128}
    assert config.optimizer.lr == 1e-3 and config.freeze.options["lr_mult"] == 0.1


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(siamkit.SiamkitError, match=r"unknown preset 'clasic'.*'classic'"):
        read_preset("clasic")


@pytest.mark.slow
def test_the_pairs_of_the_how_to_train_and_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["logo_pairs.py", str(tmp_path / "logos")])
    runpy.run_path(str(EXAMPLES / "logo_pairs.py"), run_name="__main__")
    assert "pairs.csv: 1200 pairs" in capsys.readouterr().out
    logos, run = tmp_path / "logos", str(tmp_path / "run")
    assert main(["data", "check", str(logos / "pairs.csv")]) == 0
    assert "train      120        20     600    300         300" in capsys.readouterr().out
    tiny = ("--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32")
    assert main(
        ["train", str(logos / "pairs.csv"), *tiny, "--loss", "contrastive", "--epochs", "1",
         "--freeze-policy", "freeze-all", "--quiet", "--no-report", "--run-dir", run]
    ) == 0  # fmt: skip
    assert main(["evaluate", run, str(logos / "new.csv")]) == 0
    text = capsys.readouterr().out
    assert "120 images in 600 pairs (300 same, 300 different)" in text
    assert "at the run's threshold" in text
    images = [str(logos / "1f331-seedling" / name) for name in ("noto.png", "twemoji.png")]
    assert main(["verify", run, *images]) == 0
    assert "probability" in capsys.readouterr().out


@pytest.mark.slow
def test_the_chain_to_a_small_model_runs(
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip("siamkit_runtime")
    monkeypatch.setattr(
        sys, "argv",
        ["small_model.py", str(image_folder), "-o", str(tmp_path / "out"), "--no-pretrained",
         "--backbone", "timm:test_resnet", "--image-size", "32", "--epochs", "1",
         "--batch-size", "16", "--micro-batch", "8", "--ratio", "0.3"],
    )  # fmt: skip
    runpy.run_path(str(EXAMPLES / "small_model.py"), run_name="__main__")
    out = capsys.readouterr().out
    for text in ("| whole, torch |", "| pruned, int8 |", "threshold", "CPU time of one verify"):
        assert text in out
