"""Evaluation and calibration in Python: what is refused, and what is said about the images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import siamkit
from siamkit.errors import ConfigError, DataError


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, seed: Any) -> None:
    known = {"embeddings": torch.eye(4), "labels": [0, 0, 1, 1]}
    with pytest.raises(ConfigError, match=r"seed: must be a whole number.*0 or more"):
        siamkit.evaluate(**known, seed=seed)
    with pytest.raises(ConfigError, match=r"seed: must be a whole number.*0 or more"):
        siamkit.calibrate(tmp_path, seed=seed)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    known = {"embeddings": torch.eye(4), "labels": [0, 0, 1, 1]}
    with pytest.raises(ConfigError, match="labels: cannot be used with a run"):
        siamkit.evaluate(tmp_path, labels=[0, 1])
    with pytest.raises(ConfigError, match="need labels, and cannot be combined with a run"):
        siamkit.evaluate(**known, backbone=nn.Identity())
    for call in (siamkit.evaluate, siamkit.calibrate):
        with pytest.raises(ConfigError, match="root: cannot be used with"):
            call(tmp_path, root=tmp_path)
    with pytest.raises(ConfigError, match="root: cannot be used with"):
        siamkit.evaluate(**known, root=tmp_path)
    with pytest.raises(ConfigError, match="root: cannot be used with"):
        siamkit.evaluate(tmp_path, [("a.png", "a")], root=tmp_path)


def test_a_root_without_data_is_refused_by_its_flag(tmp_path: Path, capsys: Any) -> None:
    from siamkit.cli.app import main

    for verb in ("evaluate", "calibrate"):
        assert main([verb, str(tmp_path), "--root", str(tmp_path)]) == 2
        assert "--root: cannot be used with the run's own data" in capsys.readouterr().err


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """Images of floats in [0, 1], which no default decodes."""
    rng = np.random.default_rng(0)
    for kind in range(4):
        (tmp_path / f"floats/c{kind}").mkdir(parents=True)
        for index in range(3):
            pixels = rng.random((40, 40)).astype(np.float32)
            Image.fromarray(pixels).save(tmp_path / f"floats/c{kind}/{index}.tif")
    return tmp_path / "floats"


def test_images_of_a_path_are_decoded_as_the_embedder_does(floats: Path) -> None:
    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    with pytest.raises(DataError, match=r"12 of 12 images cannot be used.*"):
        siamkit.evaluate(siamkit.Embedder(net), floats)
    net.preprocessing = replace(net.preprocessing, value_range=(0.0, 1.0))
    found = siamkit.evaluate(siamkit.Embedder(net), floats)
    assert found["images"] == 12


def test_data_is_checked_with_its_settings(floats: Path) -> None:
    [unread, hint] = siamkit.check_data(floats)["problems"]
    assert unread == "12 images cannot be used"
    assert hint == "state black and white with data={'range': [0, 1]}, or convert the file"
    assert siamkit.check_data({"path": floats, "range": [0, 1]})["problems"] == []
    with pytest.raises(ConfigError, match=r"data=\{'rang': \.\.\.\}: unknown key"):
        siamkit.check_data({"path": floats, "rang": [0, 1]})
    with pytest.raises(ConfigError, match="data: must be the path of"):
        siamkit.check_data({"range": [0, 1]})


def test_a_run_that_refuses_images_says_how_to_read_them(floats: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)12 of 12 images.*state black and white with data=.*range"
    ):
        siamkit.fit(
            data=str(floats), backbone="timm:test_resnet", run_dir=tmp_path / "run",
            image_size=32, epochs=1,
        )  # fmt: skip


def told(notices: Any) -> list[str]:
    starts = ("the centre crop leaves out 75% of", "the values of 8 images of more than 8 bits end")
    return [start for start in starts if any(text.startswith(start) for text in notices)]


def test_images_of_other_shapes_and_depths_than_in_training_are_told(
    exported_run: tuple[Path, Path], odd_folder: Path, image_folder: Path
) -> None:
    for model in exported_run:
        assert len(told(siamkit.evaluate(model, odd_folder).notices)) == 2
        assert told(siamkit.evaluate(model, image_folder).notices) == []
    assert told(siamkit.evaluate(exported_run[0]).notices) == []


def test_images_in_memory_are_judged_too(exported_run: tuple[Path, Path], odd_folder: Path) -> None:
    paths = sorted(odd_folder.rglob("*.png"))
    files = [(path, path.parent.name) for path in paths]
    pictures = [(Image.open(path), label) for path, label in files]
    for data in (files, pictures):
        assert len(told(siamkit.evaluate(exported_run[0], data).notices)) == 2


def test_a_threshold_stores_what_was_lost_of_its_images(
    exported_run: tuple[Path, Path], odd_folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(exported_run[0], tmp_path / "run")
    found = siamkit.calibrate(run, odd_folder)
    assert len(told(found.provenance.notices)) == 2
    assert told(siamkit.calibrate(run).provenance.notices) == []


def test_a_run_that_crops_its_own_test_images_says_so_again(
    values_of: Any, image_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for kind in range(8):
        part = "train" if kind < 4 else "val" if kind < 6 else "test"
        shutil.copytree(image_folder / f"class{kind}", data / part / f"class{kind}")
    for path in (data / "test").rglob("*.png"):
        with Image.open(path) as image:
            wide = Image.fromarray(np.tile(np.asarray(image), (1, 4, 1)))
        wide.save(path)
    values = values_of(tmp_path / "run", data={"path": str(data)}, train={"epochs": 1})
    events: list[Any] = []
    siamkit.fit(values, listeners=[events.append])
    start = next(event for event in events if event.name == "run_start")
    said = "the centre crop leaves out 75% of the area of 12 of 12 test images"
    assert [text.startswith(said) for text in start.data["notices"]].count(True) == 1
    assert len(told(siamkit.evaluate(tmp_path / "run").notices)) == 1
