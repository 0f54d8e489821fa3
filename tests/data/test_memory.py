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

from siamkit.data.memory import Item, items_of, write_items
from siamkit.data.opening import open_source
from siamkit.errors import ConfigError, DataError
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.pictures import storable

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
    assert np.array_equal(np.asarray(decode(root / row["path"], Decoding(3))), RGB)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_modes_decode_as_a_file_of_them_would(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("L" if mode == "I;16" else "RGB")
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    table, root = write_items([Item(image, "a")], tmp_path)
    (row,) = rows(table)
    assert decode(root / row["path"], Decoding(3)).size == (4, 5)


def test_an_image_that_a_camera_turned_stands_upright(tmp_path: Path) -> None:
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6
    assert storable(turned, "x")[0].size == (5, 4)


def test_paths_stay_where_they_are(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(RGB).save(tmp_path / name)
    items = items_of([(tmp_path / "a/0.png", "x"), (str(tmp_path / "b/1.png"), 7)], [])
    table, root = write_items(items, tmp_path / "run")
    assert root == tmp_path and sorted(p.name for p in (tmp_path / "run").iterdir()) == [table.name]
    assert rows(table) == [{"path": "a/0.png", "label": "x"}, {"path": "b/1.png", "label": "7"}]


def test_paths_among_pictures_stay_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "photo"
    Image.fromarray(RGB).save(file, "JPEG")
    table, root = write_items(items_of([(file, "x"), (RGB, "y")], []), tmp_path / "run")
    first, second = rows(table)
    assert root / first["path"] == file
    assert (root / second["path"]).parent == tmp_path / "run"
    assert {path.suffix for path in (tmp_path / "run").iterdir()} == {".csv", ".png"}


def test_data_that_can_be_walked_once_gives_all_its_items() -> None:
    assert len(items_of(((RGB, kind) for kind in "abc"), [])) == 3
    assert [item.label for item in items_of(zip([RGB] * 3, "abc", strict=True), [])] == [
        "a",
        "b",
        "c",
    ]


def test_a_dataset_that_names_its_classes_gives_their_names() -> None:
    class Named(Dataset[Any]):
        classes = ("cat", "dog")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:  # never IndexError, as torch allows
            return RGB, torch.tensor(index % 2)

    assert [item.label for item in items_of(Named(), [])] == ["cat", "dog"]


def test_what_has_indices_but_no_length_is_iterated() -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter([(RGB, "a"), (RGB, "b")])

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("there is no number of items")

    assert [item.label for item in items_of(Stream(), [])] == ["a", "b"]


def test_a_mapping_gives_splits(tmp_path: Path) -> None:
    items = items_of({"train": [(RGB, "a")], "val": [(RGB, "b")]}, [])
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
        (Dataset, r"data: cannot be used as data, got 'the class Dataset'.*instance: Dataset\("),
        (frozenset([(1, "a")]), "data: has no order, so two runs .* got 'frozenset'; pass a list"),
        ({"train": frozenset()}, r"data\['train'\]: has no order"),
        (b"folder", "cannot be used as data, got 'bytes'"),
        ([], "data: there are no images"),
        (iter(()), "data: there are no images"),
        ({}, "data: a mapping of data must have splits as keys, got 'nothing'"),
        ({"val": [(RGB, "a")]}, "got 'val', allowed: .*'train' must be among them"),
        ({"train": [(RGB, "a")], "val": []}, r"data\['val'\]: there are no images"),
        ({"train": [(RGB, "a"), RGB]}, r"data\['train'\] item 1: each item must be a pair"),
        ({"train": "no/such"}, "no/such: no such file or folder"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        items_of(data, [])


def test_a_split_to_evaluate_on_needs_no_train() -> None:
    (item,) = items_of({"test": [(RGB, "a")]}, [], training=False)
    assert item.split == "test"


class Broken(Dataset[Any]):
    """Fails on its third item."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise RuntimeError("no such row")
        return RGB, "a"


def test_an_item_that_the_data_fails_on_is_named() -> None:
    message = "item 2: reading failed: RuntimeError: no such row"
    broken = Broken()
    for data in (broken, (broken[index] for index in range(5))):
        with pytest.raises(DataError, match=f"data {message}") as caught:
            items_of(data, [])
        assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(DataError, match=rf"data\['val'\] {message}"):
        items_of({"train": [(RGB, "a")], "val": broken}, [])


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_without_a_class_is_refused(label: int) -> None:
    class Named(list[Any]):
        classes = ("cat", "dog")

    with pytest.raises(DataError, match=f"data item 1: .*no name.*got {label}, allowed: 0 to 1"):
        items_of(Named([(RGB, 0), (RGB, label)]), [])


def test_equal_labels_are_one_class() -> None:
    labels = [1, 1.0, "1", np.float32(1), torch.tensor(1.0), " 1", "1\t"]
    assert {item.label for item in items_of([(RGB, label) for label in labels], [])} == {"1"}
    others = [0.5, "0.50", "one", True]
    assert len({item.label for item in items_of([(RGB, label) for label in others], [])}) == 4


# --- splits in folders and tables ----------------------------------------------------------------


def save(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(root / name)


def test_each_split_is_a_folder_a_table_or_pairs(tmp_path: Path) -> None:
    save(tmp_path, "photos/cat/0.png", "photos/dog/1.png", "scans/a.png", "scans/b.png")
    (tmp_path / "photos/notes.txt").write_text("")
    header = "path,label,group,is_query,is_gallery,x1,y1,x2,y2\n"
    (tmp_path / "scans.csv").write_text(
        f"{header}scans/a.png,cat,g1,1,0,0,0,2,2\nscans/b.png,dog,g2,0,1,,,,\n"
    )
    notices: list[str] = []
    items = items_of(
        {"train": tmp_path / "photos", "val": [(RGB, "cat")], "test": str(tmp_path / "scans.csv")},
        notices,
    )
    table, root = write_items(items, tmp_path / "run" / "data")
    assert root == tmp_path
    assert sorted(p.name for p in table.parent.iterdir()) == ["0000002.png", table.name]
    first, second, drawn, scan, other = rows(table)
    none = dict.fromkeys(("is_query", "is_gallery", "x1", "y1", "x2", "y2"), "")
    photo = {"label": "cat", "split": "train", **none}
    assert first == {"path": "photos/cat/0.png", "group": "photos/cat/0.png", **photo}
    assert second["path"] == "photos/dog/1.png" and second["split"] == "train"
    assert drawn["path"] == "run/data/0000002.png" and drawn["split"] == "val"
    assert (scan["group"], scan["is_query"], scan["is_gallery"], scan["x2"]) == (
        "g1", "1", "0", "2.0",
    )  # fmt: skip
    assert (other["label"], other["split"], other["x2"]) == ("dog", "test", "")
    assert notices == ["data['train']: ignored 1 file that is not an image: notes.txt"]
    source = open_source(str(table), root)
    assert {part: len(images) for part, images in source.parts().items()} == {
        "train": 2, "val": 1, "test": 2,
    }  # fmt: skip
    assert source.parts()["test"].query == (True, False) and source.split_groups() == []


def test_class_folders_that_become_one_class_are_named(tmp_path: Path) -> None:
    save(tmp_path, "train/cat/0.png", "train/ cat/1.png", "train/dog/2.png")
    notices: list[str] = []
    items = items_of({"train": tmp_path / "train"}, notices)
    table, root = write_items(items, tmp_path / "run")
    assert len(open_source(str(table), root).parts()["train"].classes) == 2
    (notice,) = notices
    assert notice.startswith("data['train']: the class folders ' cat' and 'cat' count as one class")


def test_a_file_in_two_splits_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "photos/cat/0.png")
    items = items_of({"train": tmp_path / "photos", "val": tmp_path / "photos"}, [])
    with pytest.raises(DataError, match=r"0\.png: this file is given twice, got 'train and val'"):
        write_items(items, tmp_path / "run")


def test_a_split_with_splits_or_pairs_of_its_own_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "both/train/a/0.png", "both/val/a/1.png")
    with pytest.raises(DataError, match=r"data\['train'\]: has splits of its own: train, val.*="):
        items_of({"train": tmp_path / "both"}, [])
    (tmp_path / "pairs.csv").write_text("a,b,same\nboth/train/a/0.png,both/val/a/1.png,1\n")
    with pytest.raises(DataError, match=r"data\['val'\]: holds pairs.*pass this data alone: data="):
        items_of({"train": [(RGB, "a")], "val": tmp_path / "pairs.csv"}, [])
    with pytest.raises(ConfigError, match=r"data\['train'\]: must be the path.*but is empty"):
        items_of({"train": ""}, [])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.astype(np.float32), "pixels must be between 0 and 1.*before normalisation"),
        (np.full((4, 4), np.nan), "pixels must be between 0 and 1"),
        (RGB.astype(np.int64), "type of pixels, got 'int64'"),
        (np.zeros((3, 8, 8), np.uint8), r"is not an image, got 'shape \[3, 8, 8\]'.*\[H, W, C\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), "is not an image"),
        (object(), "is not an image, got 'object'"),
        (RGB[:0], r"is not an image, got 'shape \[0, 4, 3\]'.*at least one pixel"),
        (torch.zeros(3, 4, 0), r"is not an image, got 'shape \[3, 4, 0\]'"),
        (Image.new("RGB", (0, 3)), "the image is empty"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"here: .*{message}"):
        storable(image, "here")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch\.png: no such file"):
        write_items([Item(tmp_path / "nosuch.png", "a")], tmp_path / "run")


def test_a_file_that_is_cut_off_is_no_full_disk(tmp_path: Path) -> None:
    Image.fromarray(np.tile(RGB, (50, 50, 1))).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    message = "data item 0: the image cannot be read"
    with Image.open(tmp_path / "half.png") as half, pytest.raises(DataError, match=message):
        write_items([Item(half, "a")], tmp_path / "run")


def test_a_file_in_a_folder_that_cannot_be_entered_is_told(nobody: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "locked" / "a.png")
    (tmp_path / "locked").chmod(0o700)
    items = [Item(tmp_path / "locked" / "a.png", "a", None)]
    with nobody(), pytest.raises(DataError, match=r"a\.png: cannot read the image: Permission"):
        write_items(items, tmp_path / "new")


@pytest.mark.parametrize("label", [-1, 3, 4])
def test_a_label_without_a_name_is_told_with_what_there_is(label: int) -> None:
    class Named(Dataset[Any]):
        classes = ("a", "b", "c")

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return np.zeros((4, 4), np.uint8), label

    with pytest.raises(
        DataError, match=f"has no name for this label, got {label}, allowed: 0 to 2"
    ):
        list(items_of(Named(), []))


@pytest.mark.parametrize(
    ("keys", "training", "got"),
    [
        ((), True, "nothing"), ((), False, "nothing"), (("trian",), True, "trian"),
        (("trian",), False, "trian"), (("train", "dev"), True, "train, dev"),
        (("val", "test"), True, "val, test"),
    ],
)  # fmt: skip
def test_a_mapping_of_data_has_splits_as_keys(
    keys: tuple[str, ...], training: bool, got: str
) -> None:
    data = {key: [(np.zeros((4, 4), np.uint8), "a")] for key in keys}
    with pytest.raises(DataError, match=f"must have splits as keys, got '{got}'") as caught:
        list(items_of(data, [], training=training))
    assert ("'train' must be among them" in (caught.value.allowed or "")) == training


@pytest.mark.parametrize(
    ("keys", "training"),
    [(("train",), True), (("train", "val", "test"), True), (("test",), False), (("val",), False)],
)
def test_a_mapping_of_known_splits_is_read(keys: tuple[str, ...], training: bool) -> None:
    data = {key: [(np.zeros((4, 4), np.uint8), "a")] for key in keys}
    assert [item.split for item in items_of(data, [], training=training)] == list(keys)


@pytest.mark.parametrize("name", [" cats", "dogs ", "x:y", "a\\b", "a\rb", "a\nb", "=1+1", 'a"b'])
def test_folders_of_odd_names_are_read_back(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    paths = [tmp_path / name / f"{number}.png" for number in range(2)]
    for path in paths:
        Image.fromarray(RGB).save(path)
    inside = write_items([Item(path, name) for path in paths], tmp_path / "run")
    beside = write_items([Item(path, name) for path in (*paths, RGB)], tmp_path / "other")
    for table, root in (inside, beside):
        (images,) = open_source(str(table), root).parts().values()
        assert images.classes == (name.strip(),)
        assert all(sample.path.is_file() for sample in images.samples)


@pytest.mark.parametrize(("name", "label"), [("r\udcff.png", "a"), ("r.png", "a\udcff")])
def test_what_a_table_cannot_hold_is_told(tmp_path: Path, name: str, label: str) -> None:
    Image.fromarray(RGB).save(tmp_path / "0.png")
    (tmp_path / "0.png").rename(tmp_path / name)
    with pytest.raises(DataError, match="is not valid Unicode, as the table") as caught:
        write_items([Item(tmp_path / name, label)], tmp_path / "run")
    assert str(caught.value).encode()


def test_an_object_that_an_iterator_hands_out_again_is_copied(tmp_path: Path) -> None:
    buffer = np.zeros((4, 4, 3), np.uint8)

    def filled() -> Any:
        for number in range(3):
            buffer[:] = number
            yield buffer, "ab"[number % 2]

    items = items_of(filled(), [])
    assert [int(item.image[0, 0, 0]) for item in items] == [0, 1, 2]

    class Filled:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            buffer[:] = number
            return buffer, "ab"[number % 2]

    assert [int(item.image[0, 0, 0]) for item in items_of(Filled(), [])] == [0, 1, 2]
    images = [(buffer, "a"), (buffer, "b")]
    assert all(item.image is buffer for item in items_of(images, []))
