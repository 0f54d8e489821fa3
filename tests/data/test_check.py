"""The data check: every fact, group and warning of its report."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamkit.config import DataConfig
from siamkit.data.check import check


def checked(path: Path, seed: int = 0, **options: Any) -> dict[str, Any]:
    return check(DataConfig(path=str(path), **options), seed)


def write(path: Path, header: str, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@pytest.fixture
def people(make_images) -> Path:
    """A folder with four class folders, of two, three, four and five images."""
    return make_images({f"c{i}": 2 + i for i in range(4)})


def test_good_data_has_facts_and_no_complaint(people: Path) -> None:
    Image.new("L", (30, 20)).save(people / "c0/grey.bmp")
    report = checked(people)
    assert report["kind"] == "class folders" and report["where"] == str(people)
    assert (report["files"], report["formats"], report["modes"]) == (
        15, {"PNG": 14, "BMP": 1}, {"RGB": 14, "L": 1}
    )  # fmt: skip
    assert report["shorter_side"] == {"smallest": 12, "median": 12, "largest": 20}
    for key in ("problems", "warnings", "unreadable", "split_groups", "leaks", "near_duplicates"):
        assert report[key] == [], key
    assert report["conflicts"] == []
    assert list(report["parts"]) == ["train", "val"]
    assert sum(part["images"] for part in report["parts"].values()) == 15
    assert sum(part["classes"] for part in report["parts"].values()) == 4
    assert report["how"].startswith("class-disjoint")
    assert set(report["preparation"]) == {"fit", "range", "elongated", "lost"}
    assert check(DataConfig(path=str(people)), 3)["how"] != report["how"]


def test_a_part_tells_the_sizes_of_its_classes(make_images, tmp_path: Path) -> None:
    make_images({"train/a": 2, "train/b": 3, "train/c": 6, "val/d": 4, "val/e": 4})
    parts = checked(tmp_path / "images")["parts"]
    sizes = {"images": 11, "classes": 3, "smallest": 2, "median": 3, "largest": 6}
    assert parts["train"] == sizes
    assert parts["val"] == {"images": 8, "classes": 2, "smallest": 4, "median": 4, "largest": 4}


def test_pairs_triplets_and_roles_are_counted(people: Path, tmp_path: Path) -> None:
    pairs = [(f"c{i}/0.png", f"c{i}/1.png", 1, s) for i, s in ((0, "train"), (2, "val"))]
    pairs += [("c0/0.png", "c1/0.png", 0, "train"), ("c0/1.png", "c1/0.png", 0, "train")]
    pairs += [("c2/0.png", "c3/0.png", 0, "val")]
    table = write(tmp_path / "pairs.csv", "a,b,same,split", *pairs)
    train = checked(table, root=str(people))["parts"]["train"]
    assert (train["pairs"], train["same"], train["different"]) == (3, 1, 2)
    assert "smallest" not in train and "query" not in train
    rows = [(f"c{i}/0.png", f"c{i}/1.png", f"c{i + 1}/0.png", s)
            for i, s in ((0, "train"), (2, "val"))]  # fmt: skip
    table = write(tmp_path / "triplets.csv", "anchor,positive,negative,split", *rows)
    train = checked(table, root=str(people))["parts"]["train"]
    assert train["triplets"] == 1 and "same" not in train
    images = [(f"c{i}/{k}.png", f"c{i}", "train", 0, 0) for i in range(2) for k in range(2)]
    images += [(f"c{i}/{k}.png", f"c{i}", "val", int(k == 0), int(k > 0))
               for i in (2, 3) for k in range(3)]  # fmt: skip
    table = write(tmp_path / "images.csv", "path,label,split,is_query,is_gallery", *images)
    parts = checked(table, root=str(people))["parts"]
    assert (parts["val"]["query"], parts["val"]["gallery"]) == (2, 4)
    assert (parts["train"]["query"], parts["train"]["gallery"]) == (0, 0)


def test_copies_within_a_class_are_told(make_images, tmp_path: Path) -> None:
    root = make_images({"train/a": 2, "train/b": 2, "val/c": 2, "val/d": 2})
    shutil.copy(root / "val/c/0.png", root / "val/c/copy.png")
    report = checked(root)
    [copies] = report["copies"]
    assert [m["key"] for m in copies["members"]] == ["val/c/0.png", "val/c/copy.png"]
    assert report["warnings"] == ["2 images in 1 group: a split holds the same image several times"]
    assert (report["problems"], checked(root, strict=True)["problems"]) == ([], [])


def test_copies_are_groups_with_their_parts_and_labels(make_images, tmp_path: Path) -> None:
    root = make_images({"train/a": 2, "train/b": 2, "val/c": 2, "val/d": 2})
    shutil.copy(root / "train/a/0.png", root / "val/c/copy.png")
    shutil.copy(root / "train/b/0.png", root / "train/a/copy.png")
    report = checked(root)
    member = {"key": "train/a/0.png", "part": "train", "class": "a"}
    [leak] = report["leaks"]
    assert (leak["images"], leak["parts"], leak["classes"]) == (2, ["train", "val"], ["a", "c"])
    assert leak["members"] == [member, {"key": "val/c/copy.png", "part": "val", "class": "c"}]
    assert {tuple(group["classes"]) for group in report["conflicts"]} == {("a", "b"), ("a", "c")}
    assert report["warnings"] == [
        "2 images in 1 group: two splits hold images with the same content",
        "4 images in 2 groups: images with the same content have different labels",
    ]
    assert report["problems"] == []
    assert checked(root, strict=True)["problems"] == ["1 group of copies in two splits (strict)"]


def test_images_that_look_the_same_are_groups(make_images, tmp_path: Path) -> None:
    root = make_images({"train/a": 2, "train/b": 2, "val/c": 2, "val/d": 2})
    noise = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    smooth.save(root / "train/a/x.png")
    smooth.resize((60, 60)).save(root / "val/c/y.png")
    report = checked(root)
    [group] = report["near_duplicates"]
    assert {member["key"] for member in group["members"]} == {"train/a/x.png", "val/c/y.png"}
    text = "2 images in 1 group: two splits hold images that look the same"
    assert report["warnings"] == [text]
    assert checked(root, strict=True)["problems"] == []


def test_groups_that_the_splits_tear_are_warned_of(people: Path, tmp_path: Path) -> None:
    rows = [(f"c{i}/{k}.png", f"c{i}", "train" if i < 2 else "val", "g" if k == 0 else f"{i}{k}")
            for i in range(4) for k in range(2)]  # fmt: skip
    table = write(tmp_path / "t.csv", "path,label,split,group", *rows)
    report = checked(table, root=str(people))
    assert report["split_groups"] == ["g"]
    assert report["warnings"] == ["1 group: two splits hold images of the same group"]
    strict = checked(table, root=str(people), strict=True)["problems"]
    assert strict == ["1 group in two splits (strict)"]


def test_what_cannot_be_read_is_a_problem_or_left_out(make_images) -> None:
    root = make_images({f"c{i}": 3 for i in range(4)})
    (root / "c0/0.png").write_bytes(b"no image")
    report = checked(root)
    assert [bad["path"] for bad in report["unreadable"]] == [str(root / "c0/0.png")]
    assert report["unreadable"][0]["row"] is None and report["files"] == 11
    assert report["problems"][0] == "1 image cannot be used"
    skipping = checked(root, on_unreadable="skip", max_skipped=0.5)
    assert skipping["problems"] == [] and len(skipping["unreadable"]) == 1
    assert any("1 " in notice and "left out" in notice for notice in skipping["notices"])


def test_rows_of_a_table_are_told_with_what_cannot_be_read(people: Path, tmp_path: Path) -> None:
    (people / "c1/0.png").write_bytes(b"no image")
    rows = [(f"c{i}/{k}.png", f"c{i}") for i in range(4) for k in range(2)]
    report = checked(write(tmp_path / "t.csv", "path,label", *rows), root=str(people))
    assert [bad["row"] for bad in report["unreadable"]] == [4]


def test_a_hint_is_given_once(make_images) -> None:
    root = make_images({f"c{i}": 4 for i in range(4)})
    for name in ("c0/0.png", "c0/1.png"):
        Image.new("L", (200, 200)).save(root / name)
    first, hint = checked(root, max_pixels=20_000)["problems"]
    assert first == "2 images cannot be used"
    assert hint == "scale the image down, or raise the limit"


def test_data_of_which_nothing_can_be_read_has_no_parts(make_images) -> None:
    root = make_images({"a": 2, "b": 2})
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    report = checked(root)
    assert (report["how"], report["parts"], report["preparation"]) == (None, {}, None)
    assert (report["leaks"], report["near_duplicates"], report["conflicts"]) == ([], [], [])
    assert (report["files"], report["shorter_side"]) == (0, None)
    assert report["problems"] == ["4 images cannot be used"]


def test_data_that_cannot_be_split_says_why_and_keeps_the_facts(make_images) -> None:
    report = checked(make_images({"only": 3}))
    [problem] = report["problems"]
    assert "only one class" in problem
    assert (report["files"], report["parts"]) == (3, {})


def test_images_without_readable_exif_count_as_upright_and_are_named(make_images) -> None:
    root = make_images({f"c{i}": 3 for i in range(4)})
    assert not any("EXIF" in notice for notice in checked(root)["notices"])
    with Image.open(root / "c0/0.png") as image:
        image.save(root / "c0/0.png", exif=b"Exif\0\0garbage!")
    [notice] = [notice for notice in checked(root)["notices"] if "EXIF" in notice]
    assert notice.startswith("the EXIF data of 1 image cannot be read")
    assert str(root / "c0/0.png") in notice


def test_each_step_and_each_image_is_told(people: Path) -> None:
    told: list[tuple[Any, ...]] = []
    check(DataConfig(path=str(people)), 0, lambda *args: told.append(args))
    assert [args[1:] for args in told if args[0] == "read images"] == [
        (done, 14) for done in range(15)
    ]


def test_a_box_outside_its_image_is_told(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(8)]
    for name in names:
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    rows = [(name, "wxyz"[i % 4], 0, 0, 10, 10 + i) for i, name in enumerate(names)]
    header = "path,label,x1,y1,x2,y2"
    assert not checked(write(tmp_path / "good.csv", header, *rows))["problems"]
    rows[5] = ("5.png", "x", 0, 0, 30, 10)
    (found,) = checked(write(tmp_path / "bad.csv", header, *rows))["unreadable"]
    assert "its box ends at 30,10" in found["problem"] and found["path"].endswith("5.png")
    assert (found["row"], found["box"]) == (7, (0, 0, 30, 10))


def test_a_box_outside_its_image_is_one_image_of_many_in_the_file(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        Image.new("RGB", (90, 20)).save(tmp_path / name)
    rows = [(f"{i % 2}.png", "wxyz"[i % 4], 10 * (i // 2), 0, 10 * (i // 2) + 9, 9 + i // 2)
            for i in range(16)]  # fmt: skip
    rows[9] = ("1.png", "x", 85, 0, 91, 10)
    table = write(tmp_path / "boxes.csv", "path,label,x1,y1,x2,y2", *rows)
    report = checked(table)
    assert report["problems"] == ["1 image cannot be used"]
    (found,) = report["unreadable"]
    assert (found["row"], found["box"]) == (11, (85, 0, 91, 10))
    assert sum(part["images"] for part in report["parts"].values()) == 15
    left_out = checked(table, on_unreadable="skip", max_skipped=0.07)
    assert left_out["problems"] == [], "one of 16 images, though one of two files"
    assert [text for text in left_out["notices"] if "left out 1 unreadable image" in text]
    assert left_out["files"] == 2
