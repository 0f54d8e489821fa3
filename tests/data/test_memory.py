"""Images in memory as data of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from siamkit.data.decode import decode
from siamkit.data.memory import Item, items_of, picture_of, write_items
from siamkit.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)  # [H, W, C]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RGB),
        RGB,
        torch.from_numpy(RGB).permute(2, 0, 1),
        RGB.astype(np.float64) / 255,
        torch.from_numpy(RGB).permute(2, 0, 1).float() / 255,
        RGB[::-1][::-1],
    ],
    ids=["pillow", "numpy", "torch", "floats", "torch floats", "strided"],
)
def test_every_form_of_an_image_keeps_its_pixels(image: Any, tmp_path: Path) -> None:
    table, root = write_items([Item(image, "a")], tmp_path)
    (row,) = rows(table)
    assert np.array_equal(np.asarray(decode(root / row["path"], 3)), RGB)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_modes_decode_as_a_file_of_them_would(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("L" if mode == "I;16" else "RGB")
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    table, root = write_items([Item(image, "a")], tmp_path)
    (row,) = rows(table)
    assert decode(root / row["path"], 3).size == (4, 5)


def test_an_image_that_a_camera_turned_stands_upright(tmp_path: Path) -> None:
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6
    assert picture_of(turned, "x").size == (5, 4)


def test_paths_stay_where_they_are(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(RGB).save(tmp_path / name)
    items = items_of([(tmp_path / "a/0.png", "x"), (str(tmp_path / "b/1.png"), 7)])
    table, root = write_items(items, tmp_path / "run")
    assert root == tmp_path and sorted(p.name for p in (tmp_path / "run").iterdir()) == [table.name]
    assert rows(table) == [{"path": "a/0.png", "label": "x"}, {"path": "b/1.png", "label": "7"}]


def test_paths_among_pictures_are_copied_byte_by_byte(tmp_path: Path) -> None:
    file = tmp_path / "photo"
    Image.fromarray(RGB).save(file, "JPEG")
    table, root = write_items(items_of([(file, "x"), (RGB, "y")]), tmp_path / "run")
    first, second = rows(table)
    assert (root / first["path"]).read_bytes() == file.read_bytes()
    assert first["path"].endswith(".jpg") and second["path"].endswith(".png")


def test_data_that_can_be_walked_once_gives_all_its_items() -> None:
    assert len(items_of((RGB, kind) for kind in "abc")) == 3
    assert [item.label for item in items_of(zip([RGB] * 3, "abc", strict=True))] == ["a", "b", "c"]


def test_a_dataset_that_names_its_classes_gives_their_names() -> None:
    class Named(Dataset[Any]):
        classes = ("cat", "dog")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:  # never IndexError, as torch allows
            return RGB, torch.tensor(index % 2)

    assert [item.label for item in items_of(Named())] == ["cat", "dog"]


def test_a_mapping_gives_splits(tmp_path: Path) -> None:
    items = items_of({"train": [(RGB, "a")], "val": [(RGB, "b")]})
    table, _ = write_items(items, tmp_path)
    assert [row["split"] for row in rows(table)] == ["train", "val"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([RGB], "data item 0: each item must be a pair"),
        ([(RGB, None)], "data item 0: a label must be a name or a number"),
        ([(RGB, float("nan"))], "a label must be"),
        ([(RGB, " ")], "a label must be"),
        ([(RGB, [1])], "a label must be a name or a number, got 'list'"),
        ({"training": []}, "must have splits as keys"),
        (7, "cannot be used as data, got 'int'"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        items_of(data)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), "pixels must be between 0 and 1.*before normalisation"),
        (np.full((4, 4), np.nan), "pixels must be between 0 and 1"),
        (RGB.astype(np.int64), "type of pixels, got 'int64'"),
        (np.zeros((3, 8, 8), np.uint8), r"is not an image, got 'shape \[3, 8, 8\]'.*\[H, W, C\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), "is not an image"),
        (object(), "is not an image, got 'object'"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"here: .*{message}"):
        picture_of(image, "here")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch\.png: no such file"):
        write_items([Item(tmp_path / "nosuch.png", "a")], tmp_path / "run")
