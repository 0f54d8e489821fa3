"""``siamkit data check --model``: what the embedding of a trained network says against the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import siamkit
from siamkit.api import suspecting
from siamkit.cli.app import main
from siamkit.errors import ConfigError


def check(*args: object) -> int:
    return main(["data", "check", *map(str, args)])


@pytest.fixture(scope="module")
def suspicious(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, one of them with a wrong label, one with a copy, and a class in two names."""
    root = tmp_path_factory.mktemp("suspicious") / "images"
    shutil.copytree(image_folder, root)
    (root / "class0" / "0.png").rename(root / "class5" / "wrong.png")
    with Image.open(root / "class2" / "1.png") as image:
        image.save(root / "class2" / "copy.png", compress_level=0)
    (root / "again").mkdir()
    for index in (0, 2, 4):
        shutil.move(root / "class3" / f"{index}.png", root / "again" / f"{index}.png")
    return root


def by_class(embedder: Any, samples: Any, progress: Any) -> np.ndarray[Any, Any]:
    """Embed each picture as its class before it was moved, plus a little of its number."""
    rows = np.zeros((len(samples), 8), np.float32)
    for row, sample in zip(rows, samples, strict=True):
        folder, name = sample.key.split("/")
        kind = 0 if name == "wrong.png" else 3 if folder == "again" else int(folder[-1])
        number = int(name[0]) if name[0].isdigit() else 7
        row[kind], row[(kind + 1) % 8] = 1, 0.04 * number
    return rows


def found_by(model: Path, data: Path, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = siamkit.check_data(data, model=model, **options)["suspects"]
    return found


def test_a_run_and_its_export_say_the_same(
    suspicious: Path, exported_run: tuple[Path, Path]
) -> None:
    run, model = exported_run
    first, second = found_by(run, suspicious), found_by(model, suspicious)
    assert first["model"] == str(run) and second["model"] == str(model)
    assert first["images"] == second["images"] == 49
    assert first["trained_on"] and second["trained_on"] is None
    shares = [found["labels"]["contradicted"] for found in (first, second)]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)
    for found in (first, second):
        pairs = [set(pair["keys"]) for pair in found["near_duplicates"]["pairs"]]
        assert {"class2/1.png", "class2/copy.png"} in pairs
    assert any("was trained on" in notice for notice in first["notices"])
    assert not any("was trained on" in notice for notice in second["notices"])


def test_wrong_labels_and_twin_classes_are_told_and_drawn(
    suspicious: Path,
    exported_run: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspecting, "embeddings_of", by_class)
    monkeypatch.setattr(suspecting, "_limit", lambda *_: 0.9999)
    for name in ("sheet.html", "sheet.png"):
        assert check(suspicious, "--model", exported_run[0], "-o", tmp_path / name) == 0
        text = capsys.readouterr().out
        assert f"contact sheet: {tmp_path / name}" in text and "the data can be used" in text
        assert "class5/wrong.png (class5) looks like class0" in text
        assert "classes that look like one: 1\n  again and class3" in text
    page = (tmp_path / "sheet.html").read_text()
    assert "Suspicious labels: 2" in page and "class5: looks like class0" in page
    assert "Classes that look like one: 1" in page and "again and class3" in page
    assert check(suspicious, "--model", exported_run[0], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] is None
    # The second one is of the class in two names.
    label, _ = found["suspects"]["labels"]["suspects"]
    assert label["key"] == "class5/wrong.png" and label["suggested"] == "class0"
    (alike,) = found["suspects"]["alike"]
    assert alike["classes"] == ["again", "class3"] and found["suspects"]["divided"] == []


def test_unreadable_images_are_left_out(
    suspicious: Path, exported_run: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(suspicious, tmp_path / "images")
    (tmp_path / "images/class1/bad.png").write_bytes(b"no image")
    found = siamkit.check_data(tmp_path / "images", model=exported_run[1])
    assert found["problems"] and found["suspects"]["images"] == 49


def test_pairs_have_no_labels_to_check(
    image_folder: Path, exported_run: tuple[Path, Path], tmp_path: Path
) -> None:
    lines = ["a,b,same"]
    for kind in range(8):
        lines += [f"class{kind}/{i}.png,class{kind}/{i + 1}.png,1" for i in range(5)]
        lines += [f"class{kind}/{i}.png,class{(kind + 1) % 8}/{i}.png,0" for i in range(5)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    found = siamkit.check_data(tmp_path / "pairs.csv", root=image_folder, model=exported_run[1])
    suspects = found["suspects"]
    assert suspects["labels"] is None and suspects["alike"] == [] == suspects["divided"]
    assert any("only near duplicates" in notice for notice in suspects["notices"])


def test_a_sheet_needs_a_model_and_a_model_that_exists(
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("siamkit.api.checking.check")  # refused before any image is read
    assert check(image_folder, "-o", tmp_path / "a.html") == 2
    assert "--output" in (err := capsys.readouterr().err) and "--model" in err
    assert check(image_folder, "--model", tmp_path / "none") == 4
    assert "is not a run directory" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown ending"):
        siamkit.check_data(image_folder, model=tmp_path, output=tmp_path / "a.txt")
