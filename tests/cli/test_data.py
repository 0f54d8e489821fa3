from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamkit.cli.app import main


def check(*args: object) -> int:
    return main(["data", "check", *map(str, args)])


def test_it_says_what_there_is(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(image_folder) == 0
    text = capsys.readouterr().out
    assert f"class folders: {image_folder}" in text
    assert "48 files: 48 PNG; 48 RGB" in text
    assert "class-disjoint: 4 classes train, 4 held out (seed 0)" in text
    assert text.rstrip().endswith("the data can be used")


def test_json_holds_all_of_it(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(image_folder, "--json", "--seed", 3) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "siamkit.data/1"
    assert found["parts"]["train"] == {
        "images": 24, "classes": 4, "smallest": 6, "median": 6, "largest": 6,
    }  # fmt: skip
    assert found["shorter_side"] == {"smallest": 40, "median": 40, "largest": 40}
    assert (found["problems"], found["leaks"], found["unreadable"]) == ([], [], [])


def test_leaks_and_conflicts_are_shown_and_strict_refuses_leaks(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(8):
        part = "train" if kind < 4 else "test" if kind < 6 else "val"
        shutil.copytree(image_folder / f"class{kind}", tmp_path / part / f"class{kind}")
    shutil.copy(tmp_path / "train/class0/0.png", tmp_path / "test/class4/copy.png")
    shutil.copy(tmp_path / "val/class6/0.png", tmp_path / "val/class7/copy.png")
    assert check(tmp_path) == 0
    text = capsys.readouterr().out
    assert "the same image in two splits: 1" in text
    assert "train/class0/0.png (train) and test/class4/copy.png (test)" in text
    assert "the same image with two labels: 2" in text
    assert "val/class6/0.png (class6) and val/class7/copy.png (class7)" in text
    assert "warning: 2 images in 1 group: two splits hold images with the same content" in text
    assert "warning: 4 images in 2 groups: images with the same content have different" in text
    assert check(tmp_path, "--strict") == 3
    assert "problem: 1 group of copies in two splits (--strict)" in capsys.readouterr().out


def test_many_copies_are_told_as_one_group(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(30):
        for index in range(10):
            target = tmp_path / f"c{kind:02}" / f"{index}.png"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(image_folder / "class0/0.png", target)
    assert check(tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the same image in two splits: 1 " in text and "and 298 more images" in text
    assert "warning: 300 images in 1 group: two splits hold images" in text
    assert check(tmp_path, "--json") == 0
    [group] = json.loads(capsys.readouterr().out)["leaks"]
    assert (group["images"], group["parts"], len(group["classes"])) == (300, ["train", "val"], 30)
    assert len(group["members"]) == 300


def test_what_cannot_be_used_exits_with_3_and_still_tells_the_rest(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder / "class0", tmp_path / "only")
    data = (tmp_path / "only/3.png").read_bytes()
    (tmp_path / "only/3.png").write_bytes(data[:-100])
    assert check(tmp_path, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert [bad["path"] for bad in found["unreadable"]] == [str(tmp_path / "only/3.png")]
    assert found["problems"][0] == "1 image cannot be used"
    assert "has only one class" in found["problems"][1]
    assert found["files"] == 5
    assert check(tmp_path) == 3
    assert "problem: 1 image cannot be used" in capsys.readouterr().out


def test_damaged_exif_data_is_said_and_the_image_is_used(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "class0/0.png"
    with Image.open(damaged) as image:
        image.save(damaged, exif=b"Exif\0\0garbage!")
    assert check(tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "notice: the EXIF data of 1 image cannot be read" in text
    assert "count as upright" in text and "48 files" in text


def test_bad_rows_are_an_error_with_their_numbers(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = [("a", "b", "same"), ("class0/0.png", "../x", 1), ("class0/0.png", "x.png", 9)]
        csv.writer(file).writerows(rows)
    assert check(tmp_path / "pairs.csv", "--root", image_folder) == 3
    text = capsys.readouterr().err
    assert "2 problems:" in text
    assert "row 2: b leads out of the folder: ../x" in text
    assert "row 3: same must be 1 or 0, got '9'" in text


def test_paths_of_another_system_or_folder_say_what_to_do(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"class{kind}/{index}.png" for kind in range(8) for index in range(6)]

    def write(path: Path, cells: list[str]) -> Path:
        rows = (f"{cell},{cell[:6]}\n" for cell in cells)
        path.write_text("file,who\n" + "".join(rows))
        return path

    names = ("--path-column", "file", "--label-column", "who")
    good = write(tmp_path / "g.csv", paths)
    assert check(good, "--root", image_folder, *names) == 0
    assert check(good, *names) == 3
    text = " ".join(capsys.readouterr().out.split())
    assert f"row 2: {tmp_path}/class0/0.png: no such file" in text
    assert "--root DIR sets another folder" in text
    assert check(good, "--root", image_folder) == 3
    assert "--path-column NAME" in capsys.readouterr().err
    windows = write(tmp_path / "w.csv", [path.replace("/", "\\") for path in paths])
    assert check(windows, "--root", image_folder, *names) == 3
    assert "row 2: path has backslashes, write class0/0.png" in capsys.readouterr().err


def test_names_are_printed_literally(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(4):
        shutil.copytree(image_folder / f"class{kind}", tmp_path / f"[red]{kind}")
    shutil.copy(tmp_path / "[red]0/0.png", tmp_path / "[red]1/\x1b[31mcopy.png")
    assert check(tmp_path) == 0
    text = capsys.readouterr().out
    assert "[red]1/\\x1b[31mcopy.png" in text and "\x1b" not in text


def test_a_leaky_manifest_is_reported(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    shutil.copy(tmp_path / "images/class0/0.png", tmp_path / "images/class0/copy.png")
    rows: list[tuple[str, ...]] = [("path", "label", "split", "group")]
    for kind in range(8):
        for index in range(6):
            part = "train" if kind < 4 else "val"
            rows.append((f"images/class{kind}/{index}.png", f"k{kind}", part, f"p{kind}"))
    rows.append(("images/class0/copy.png", "k4", "val", "p0"))
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert check(tmp_path / "m.csv") == 0
    text = capsys.readouterr().out
    assert "groups in two splits: 1\n  p0" in text
    assert "images/class0/0.png (train) and images/class0/copy.png (val)" in text
    assert check(tmp_path / "m.csv", "--strict", "--json") == 3
    assert json.loads(capsys.readouterr().out)["split_groups"] == ["p0"]


def float_images(root: Path) -> Path:
    """Draw smooth images of floats in four classes; val/c2/copy.tif looks like train/c0/0.tif."""
    rng = np.random.default_rng(0)
    for kind in range(4):
        folder = root / ("train" if kind < 2 else "val") / f"c{kind}"
        folder.mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(rng.random((6, 6)).astype(np.float32))
            image.resize((48, 48), Image.Resampling.BILINEAR).save(folder / f"{index}.tif")
    with Image.open(root / "train/c0/0.tif") as image:
        Image.fromarray(np.asarray(image) * np.float32(0.999)).save(root / "val/c2/copy.tif")
    return root


def test_images_of_floats_are_checked_with_the_range_that_a_run_would_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = float_images(tmp_path)
    assert check(root) == 3
    text = capsys.readouterr().out
    assert "problem: 13 images cannot be used" in text and "--set data.range=[0,1]" in text
    assert "all images" not in text and text.count("problem: ") == 2
    assert check(root, "--set", "data.range=[0,1]", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["problems"]) == (13, [])
    [group] = found["near_duplicates"]
    assert {m["key"] for m in group["members"]} == {"train/c0/0.tif", "val/c2/copy.tif"}


def test_settings_of_the_data_change_the_verdict_as_for_a_run(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "class0/0.png").write_bytes(b"")
    skip = ("--set", "data.on_unreadable=skip")
    assert check(tmp_path) == 3 and check(tmp_path, *skip) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "notice: left out 1 unreadable image" in text
    assert check(tmp_path, *skip, "--set", "data.max_skipped=0.01") == 3
    assert check(tmp_path, *skip, "--set", "data.folds=9") == 3
    shutil.copytree(image_folder / "class0", tmp_path / "other", dirs_exist_ok=True)
    for kind in range(1, 8):
        shutil.copy(image_folder / "class0/1.png", tmp_path / f"class{kind}/copy.png")
    assert check(tmp_path, *skip, "--set", "data.strict=true") == 3
    assert "in two splits (--strict)" in capsys.readouterr().out


def test_only_settings_of_the_data_are_taken(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ("train.seed=1", "data=photos", "range=[0,1]"):
        assert check(image_folder, "--set", given) == 2
        assert "must set a key of the section data" in capsys.readouterr().err
    assert check(image_folder, "--set", "data.rang=[0,1]") == 2
    assert "--set data.rang: unknown key" in capsys.readouterr().err


def test_shapes_and_depths_are_told_for_every_part(
    image_folder: Path, odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in range(8):
        part = "train" if kind < 4 else "val"
        shutil.copytree(image_folder / f"class{kind}", tmp_path / part / f"class{kind}")
    shutil.copytree(odd_folder, tmp_path / "test")
    assert check(tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "notice: the centre crop leaves out 75% of the area of 8 of 16 test images; " in text
    assert "notice: the values of 8 images of 16 bits end at" in text and "read as 12 bits" in text
    assert check(tmp_path, "--set", "data.range=full", "--set", "data.fit=squash", "--json") == 0
    known, notice = json.loads(capsys.readouterr().out)["notices"]
    assert "test classes also train" in known
    assert notice.startswith("the values of 8 test images of more than 8 bits end at")


def test_a_set_that_is_squashed_says_so(
    odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(odd_folder) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "training images are elongated: images are squashed, because a centre crop" in text
