"""``siamkit data show``: a contact sheet before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamkit
from siamkit.cli.app import main
from siamkit.errors import ConfigError

NET = ["--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32"]


def show(*args: object) -> int:
    return main(["data", "show", *map(str, args), *NET])


def test_a_sheet_is_written_and_its_path_printed(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("views.png", "views.html"):
        assert show(odd_folder, "-o", tmp_path / name, "--images", 3, "--draws", 2) == 0
        out, err = capsys.readouterr()
        assert out.strip() == str(tmp_path / name)
        assert "notice: " in err and "elongated" in err and "12 bits" in err
    page = (tmp_path / "views.html").read_text()
    for text in ("the most elongated, 4:1", "training view 2", "values ", "objects, for"):
        assert text in page
    assert "training view 3" not in page
    with Image.open(tmp_path / "views.png") as image:
        assert np.asarray(image).std() > 0


def test_json_tells_what_was_chosen(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "views.png"
    assert show(odd_folder, "-o", out, "--augment", "marks", "--json", "--images", 2) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "siamkit.data-show/1" and found["output"] == str(out)
    assert found["augment"]["preset"] == "marks" and found["augment"]["hue"] == 0
    assert (found["fit"], found["range"], found["image_size"]) == ("squash", 12, [32, 32])
    assert found["images"][0]["why"] == "the most elongated, 4:1" and len(found["images"]) == 2
    assert found["views"] == 5


def test_nothing_is_drawn_for_an_unknown_ending_or_preset(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(image_folder, "-o", tmp_path / "views.pdf") == 2
    assert "allowed: .html, .png" in " ".join(capsys.readouterr().err.split())
    assert show(image_folder, "-o", tmp_path / "views.png", "--augment", "logos") == 2
    assert "--augment" in capsys.readouterr().err
    assert show(tmp_path / "none", "-o", tmp_path / "views.png") == 3
    assert list(tmp_path.iterdir()) == []


def test_images_in_memory_can_be_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8), f"c{i % 4}") for i in range(16)]
    backbone = {"name": "timm:test_resnet", "pretrained": False}
    found = siamkit.show_data(
        data=data, backbone=backbone, image_size=32, output=tmp_path / "a.png", images=3, draws=1
    )
    assert (tmp_path / "a.png").is_file() and len(found["images"]) == 3
    with pytest.raises(ConfigError, match="images: must be a whole number"):
        siamkit.show_data(data=data, output=tmp_path / "a.png", images=0)
