from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from siamkit.config import AugmentConfig
from siamkit.data.class_folders import class_images
from siamkit.data.images import ImageSet, Sample
from siamkit.data.loader import ViewDataset
from siamkit.data.rowkeys import KEY_BYTES, FileDigest, RowKeys
from siamkit.data.views import EvalView, TrainView
from siamkit.errors import DataError
from siamkit.interfaces import Preprocessing
from siamkit.portable.folders import scan

PREPROCESSING = Preprocessing(size=(32, 32), interpolation="bicubic", crop_pct=0.9)


def keys(root: Path, *, view: EvalView | TrainView | None = None, seed: int = 0) -> RowKeys:
    chosen = view or TrainView(PREPROCESSING, AugmentConfig())
    return RowKeys(ViewDataset(class_images(scan(root)), chosen, seed))


def test_every_image_and_view_has_a_name_of_its_own(image_folder: Path) -> None:
    key = keys(image_folder)
    names = [name for view in range(3) for name in key.of(view)]
    assert len(set(names)) == 48 * 3
    assert {len(name) for name in names} == {KEY_BYTES}
    assert names[48 + 4] == key(4, 1)


def test_the_name_does_not_depend_on_where_the_folder_lies(
    image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder, tmp_path / "elsewhere")
    assert keys(image_folder)(7, 2) == keys(tmp_path / "elsewhere")(7, 2)


def test_each_box_of_a_file_has_a_name_of_its_own(image_folder: Path) -> None:
    path = image_folder / "class0/0.png"
    boxes = [None, (0.0, 0.0, 20.0, 40.0), (20.0, 0.0, 40.0, 40.0)]
    images = ImageSet(tuple(Sample(path, 0, "0.png", box) for box in boxes), ("a",))
    names = RowKeys(ViewDataset(images, EvalView(PREPROCESSING), 0)).of(0)
    assert len(set(names)) == 3
    whole = ImageSet((Sample(path, 0, "0.png"),), ("a",))
    assert RowKeys(ViewDataset(whole, EvalView(PREPROCESSING), 0)).of(0) == names[:1]


def test_all_evaluation_views_are_one(image_folder: Path) -> None:
    key = keys(image_folder, view=EvalView(PREPROCESSING))
    assert key(3, 0) == key(3, 5)
    same = keys(image_folder, view=TrainView(PREPROCESSING, AugmentConfig(preset="none")), seed=9)
    assert same(3, 4) == key(3, 0), "without augmentation a training view is the evaluation view"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"view": TrainView(replace(PREPROCESSING, mean=(0.4,), std=(0.2,)), AugmentConfig())},
        {"view": TrainView(replace(PREPROCESSING, fit="pad"), AugmentConfig())},
        {"view": TrainView(replace(PREPROCESSING, value_range=12), AugmentConfig())},
        {"view": TrainView(PREPROCESSING, AugmentConfig(hue=0.2))},
        {"view": TrainView(replace(PREPROCESSING, crop_pct=1.0), AugmentConfig())},
        {"view": TrainView(replace(PREPROCESSING, mean=(0.4, 0.5, 0.5)), AugmentConfig())},
        {"view": TrainView(replace(PREPROCESSING, size=(40, 32)), AugmentConfig())},
        {"view": TrainView(replace(PREPROCESSING, interpolation="bilinear"), AugmentConfig())},
        {"view": EvalView(PREPROCESSING)},
    ],
    ids=[
        "seed",
        "channels",
        "fit",
        "range",
        "augmentation",
        "crop",
        "mean",
        "size",
        "interpolation",
        "kind",
    ],
)
def test_whatever_changes_a_view_changes_its_name(
    image_folder: Path, change: dict[str, object]
) -> None:
    assert keys(image_folder)(0, 0) != keys(image_folder, **change)(0, 0)  # type: ignore[arg-type]


def test_another_release_of_the_decoder_has_other_names(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(image_folder)(0, 0)
    monkeypatch.setattr("siamkit.data.rowkeys.importlib.metadata.version", lambda name: "99.0")
    assert keys(image_folder)(0, 0) != before


def test_one_changed_byte_changes_the_name_of_that_image_alone(
    image_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    shutil.copytree(image_folder, root)
    before = keys(root).of(0)
    changed = root / "class0" / "0.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    after = keys(root).of(0)
    assert [i for i in range(48) if before[i] != after[i]] == [0]


def test_digests_are_taken_once_and_shared(image_folder: Path) -> None:
    dataset = ViewDataset(class_images(scan(image_folder)), EvalView(PREPROCESSING), 0)
    known: dict[Path, FileDigest] = {}
    first = RowKeys(dataset, known)(0, 0)
    assert len(known) == 48
    path = dataset.images.samples[0].path
    known[path] = replace(known[path], sha256=bytes(32))
    assert RowKeys(dataset, known)(0, 0) != first, "what is known is not read again"


def test_a_file_that_went_is_named(tmp_path: Path, image_folder: Path) -> None:
    shutil.copytree(image_folder / "class0", tmp_path / "images" / "class0")
    images: ImageSet = class_images(scan(tmp_path / "images"))
    images.samples[2].path.unlink()
    with pytest.raises(DataError, match=images.samples[2].path.name):
        RowKeys(ViewDataset(images, EvalView(PREPROCESSING), 0))


def test_a_file_that_is_written_or_removed_later_is_noticed(
    tmp_path: Path, image_folder: Path
) -> None:
    shutil.copytree(image_folder / "class0", tmp_path / "images" / "class0")
    images = class_images(scan(tmp_path / "images"))
    key = RowKeys(ViewDataset(images, EvalView(PREPROCESSING), 0))
    key.require_unchanged(range(6))
    path = images.samples[1].path
    os.utime(path, ns=(0, 12345))
    with pytest.raises(DataError, match=rf"{path.name}.*changed while the run read it"):
        key.require_unchanged([0, 1])
    key.require_unchanged([0, 2])
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        key.require_unchanged([1])


def test_reading_can_be_stopped_between_two_files(image_folder: Path) -> None:
    class Stopped(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped

    with pytest.raises(Stopped):
        RowKeys(
            ViewDataset(class_images(scan(image_folder)), EvalView(PREPROCESSING), 0), check=check
        )
    assert calls == 3


def test_keys_of_rows_need_no_torch() -> None:
    code = "import sys, siamkit.data.rowkeys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
