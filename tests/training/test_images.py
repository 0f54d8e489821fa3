"""Runs on images of other shapes and depths: what is chosen, recorded, said and used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import siamkit
from siamkit.errors import DataError

Values = Callable[..., dict[str, Any]]


def wide_folder(root: Path) -> Path:
    """Eight classes of images of 160 x 40 that differ in their outer thirds only."""
    rng = np.random.default_rng(0)
    for label in range(8):
        ends = rng.integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
        for index in range(4):
            pixels = np.full((40, 160, 3), 128, np.uint8)
            for side, columns in enumerate((slice(0, 50), slice(110, 160))):
                block = np.asarray(Image.fromarray(ends[side]).resize((50, 40))).astype(int)
                noise = rng.integers(-20, 20, block.shape)
                pixels[:, columns] = (block + noise).clip(0, 255)
            path = root / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def deep_folder(root: Path, image_folder: Path, factor: int) -> Path:
    """The grey pictures of a folder, as files of 16 bits whose values are multiplied."""
    for path in image_folder.rglob("*.png"):
        target = root / path.relative_to(image_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(grey * np.uint16(factor)).save(target)
    return root


def run(values: Values, folder: Path, **data: Any) -> tuple[dict[str, Any], list[str]]:
    notices: list[str] = []

    def listen(event: siamkit.Event) -> None:
        if event.name == "run_start":
            notices.extend(event.data["notices"])

    plan = values(
        data={"path": str(folder), **data}, freeze={"name": "freeze-all"}, train={"epochs": 1}
    )
    return siamkit.fit(plan, listeners=[listen]).to_json(), notices


def test_wide_images_are_seen_whole_by_default(run_values: Values, tmp_path: Path) -> None:
    folder = wide_folder(tmp_path / "wide")
    result, notices = run(run_values, folder)
    (notice,) = [text for text in notices if "elongated" in text]
    assert "squashed" in notice and "75%" in notice
    embedder = siamkit.load_embedder(result["run_dir"])
    assert embedder.net.preprocessing.fit == "squash"
    embeddings = embedder.embed(sorted(folder.rglob("0.png")))
    assert len(torch.unique(embeddings, dim=0)) == 8
    assert siamkit.inspect(result["run_dir"]).to_json()  # reads the recorded config


@pytest.mark.slow
def test_a_crop_shows_its_loss(run_values: Values, tmp_path: Path) -> None:
    folder = wide_folder(tmp_path / "wide")
    result, notices = run(run_values, folder, fit="crop")
    told = [text for text in notices if "the centre crop leaves out 75% of the area" in text]
    assert len(told) == 2  # of the training images and of the held-out ones
    embedder = siamkit.load_embedder(result["run_dir"])
    assert len(torch.unique(embedder.embed(sorted(folder.rglob("0.png"))), dim=0)) == 1


@pytest.mark.slow
def test_deep_images_give_what_their_8_bits_give(
    run_values: Values, values_of: Values, image_folder: Path, tmp_path: Path
) -> None:
    eight = deep_folder(tmp_path / "eight", image_folder, 257)
    twelve = deep_folder(tmp_path / "twelve", image_folder, 16)
    first, quiet = run(run_values, eight)
    second, notices = run(lambda **s: values_of(tmp_path / "other", **s), twelve)
    assert not [text for text in quiet if "bits" in text]
    (notice,) = [text for text in notices if "bits" in text]
    assert "12 bits" in notice and "4095" in notice
    one, other = (siamkit.load_embedder(result["run_dir"]) for result in (first, second))
    assert (one.net.preprocessing.value_range, other.net.preprocessing.value_range) == (None, 12)
    torch.testing.assert_close(
        other.embed(sorted(twelve.rglob("0.png"))), one.embed(sorted(eight.rglob("0.png"))),
        atol=0.02, rtol=0,
    )  # fmt: skip
    untrained = [result["metrics"]["untrained"] for result in (first, second)]
    assert untrained[1] == pytest.approx(untrained[0], abs=0.1)
    with pytest.raises(DataError, match="do not fit into the 12 bits"):
        other.embed(sorted(eight.rglob("0.png")))


@pytest.mark.slow
def test_the_choice_outlives_its_run(run_values: Values, tmp_path: Path) -> None:
    folder = wide_folder(tmp_path / "wide")
    result, _ = run(run_values, folder)
    embedder = siamkit.load_embedder(result["run_dir"])
    siamkit.save_pretrained(result["run_dir"], tmp_path / "saved")
    back = siamkit.Embedder.from_pretrained(tmp_path / "saved")
    paths = sorted(folder.rglob("0.png"))
    assert back.net.preprocessing == embedder.net.preprocessing
    torch.testing.assert_close(back.embed(paths), embedder.embed(paths))
    resumed = siamkit.resume(result["run_dir"]).to_json()
    assert resumed["metrics"] == result["metrics"]
