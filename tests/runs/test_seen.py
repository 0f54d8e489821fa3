"""What a run used images for before, and what cannot be known about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import siamkit
from siamkit import api
from siamkit.config import DataConfig
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.data.load import unseen_images
from siamkit.errors import DataError
from siamkit.portable.calibration import Provenance
from siamkit.report.html.context import _seen_note
from siamkit.report.html.gather import gather
from siamkit.runs.seen import Seen, Use, notices_on, threshold_use

PARTS = {"train": "0123", "val": "45", "test": "67"}


def split_folder(image_folder: Path, root: Path) -> Path:
    for part, kinds in PARTS.items():
        for kind in kinds:
            shutil.copytree(image_folder / f"class{kind}", root / part / f"class{kind}")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, values_of: Any) -> Path:
    """A run on ``photos/`` beside it, with folders for training, validation and test."""
    root = tmp_path_factory.mktemp("seen")
    photos = split_folder(image_folder, root / "photos")
    api.fit(values_of(root / "run", data={"path": str(photos)}, train={"epochs": 1}))
    return root


@pytest.fixture
def photos(trained: Path) -> Path:
    return trained / "photos"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(trained / "run", tmp_path / "run")


@pytest.fixture
def gone(trained: Path) -> Any:
    """Take the data of the run away until the end of the test."""
    away = trained / "away"
    (trained / "photos").rename(away)
    yield away
    shutil.rmtree(trained / "photos", ignore_errors=True)
    away.rename(trained / "photos")


def told(found: siamkit.EvaluationResult) -> str:
    return "\n".join(found.notices)


def test_a_part_of_the_data_is_known_again_from_its_own_folder(run: Path, photos: Path) -> None:
    own = siamkit.evaluate(run, photos / "val")
    assert own["data"]["chose"] == ["epoch", "threshold"] and own["data"]["trained_on"] == 0
    assert "these images chose the best epoch and the threshold" in told(own)
    used = siamkit.evaluate(run, photos / "train")
    assert used["data"]["trained_on"] == 24 and used["data"]["chose"] == []
    fresh = siamkit.evaluate(run, photos / "test")
    assert fresh["data"]["trained_on"] == 0 and fresh["data"]["chose"] == []
    assert not any("cannot be checked" in text for text in fresh.notices)


def test_images_given_in_python_are_known_again(run: Path, photos: Path) -> None:
    files = sorted((photos / "train").rglob("*.png"))
    found = siamkit.evaluate(run, [(path, path.parent.name) for path in files])
    assert found["data"]["trained_on"] == 24
    pictures = [(np.asarray(Image.open(path)), path.parent.name) for path in files]
    found = siamkit.evaluate(run, pictures)
    assert found["data"]["trained_on"] is None
    assert "images in memory cannot be compared with files" in told(found)


def test_images_in_memory_are_known_again_by_a_run_on_images_in_memory(
    image_folder: Path, values_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    pairs = [
        (np.asarray(Image.open(path)), path.parent.name)
        for path in sorted(image_folder.rglob("*.png"))
    ]
    values = values_of(tmp_path / "run", train={"epochs": 1})
    del values["data"]
    siamkit.fit(data=pairs, **values, image_size=32)
    found = siamkit.evaluate(tmp_path / "run", pairs)
    assert found["data"]["trained_on"] == 24 and found["data"]["chose"] == ["epoch", "threshold"]


def test_a_damaged_image_hides_no_other(run: Path, photos: Path) -> None:
    kept = shutil.copytree(photos, run.parent / "kept")
    path = photos / "train/class0/0.png"
    content = path.read_bytes()
    try:
        path.write_bytes(b"")
        for data, number in ((photos / "train/class1", 6), (kept / "train", 23)):
            files = sorted(data.rglob("*.png"))
            pairs = [(file, f"{n % 2}") for n, file in enumerate(files)]
            found = siamkit.evaluate(run, pairs)
            assert f"the run trained on {number} of the {len(files)} images" in told(found)
        assert found["data"]["trained_on"] is None  # the damaged one may be the 24th
        assert "cannot be checked: the run's data has changed since" in told(found)
    finally:
        path.write_bytes(content)


def test_data_that_is_gone_is_no_clean_bill(run: Path, gone: Path) -> None:
    found = siamkit.evaluate(run, gone / "test")
    assert found["data"]["trained_on"] is None
    assert "whether these images trained the network cannot be checked: the run's data" in told(
        found
    )
    made = siamkit.calibrate(run, gone / "test")
    assert any("trained the network cannot be checked" in text for text in made.provenance.notices)


def test_an_embedder_does_not_know_its_run(run: Path, photos: Path) -> None:
    found = siamkit.evaluate(siamkit.load_embedder(run), photos / "train")
    assert found["data"]["trained_on"] is None
    assert "trained the network or chose the best epoch cannot be checked" in told(found)


def test_a_threshold_is_not_fitted_on_training_images(run: Path, photos: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)trained on 24 of the 24 images.*siamkit\.calibrate"):
        siamkit.calibrate(run, photos / "train")
    made = siamkit.calibrate(run, photos / "val").provenance
    assert made.notices == (
        "these images chose the best epoch, so the rates are optimistic for other images",
    )


def shown(run: Path) -> str:
    return _seen_note(gather(api.open_run(run)).seen)


def test_the_report_and_evaluate_say_which_images_chose_the_threshold(
    run: Path, photos: Path
) -> None:
    # This run's report shows its test images. Another part chose the threshold, until it is fitted
    # on them.
    assert shown(run) == ""
    assert siamkit.evaluate(run)["data"]["chose"] == []
    for data in (photos, photos / "test"):
        siamkit.calibrate(run, data)
        assert "These images chose the threshold, so the figures are optimistic" in shown(run)
        assert siamkit.evaluate(run)["data"]["chose"] == ["threshold"]
    # Without test images, it shows the validation images.
    (run / "embeddings/test.safetensors").unlink()
    assert shown(run).startswith(" These images chose the best epoch, so the figures are")
    siamkit.calibrate(run)
    assert shown(run).startswith(" These images chose the best epoch and the threshold, so")


def test_the_report_knows_the_run_s_own_images_after_the_data_was_removed(
    run: Path, gone: Path
) -> None:
    (run / "embeddings/test.safetensors").unlink()
    assert shown(run).startswith(" These images chose the best epoch and the threshold, so")
    assert "cannot be checked" not in shown(run)


def test_notices_say_how_many_images_and_what_is_unknown() -> None:
    seen = Seen(4, Use((0,), "it is gone"), Use((1, 2)), Use((1,), "it is gone"))
    first, second, trained, unknown = notices_on(seen)
    assert first.startswith("2 of the 4 images chose the best epoch, so")
    assert second.startswith("1 of the 4 images chose the threshold, so")
    assert trained.startswith("the run trained on 1 of the 4 images")
    assert unknown == (
        "whether others of these images trained the network or chose the threshold cannot be "
        "checked: it is gone"
    )


def made(data: Path, images: ImageSet) -> Provenance:
    return Provenance(str(data), "all", digest(images), 1, 1, 1, 1, True, "c", "n", 1, "1")


def test_the_images_of_a_threshold_are_known_without_a_run(make_images: Any) -> None:
    root = make_images({"a": 2, "b": 2})
    images = unseen_images(str(root)).images
    about = made(root, images)
    assert threshold_use(None, images, about) == Use((0, 1, 2, 3))
    others = unseen_images(str(make_images({"a": 5, "b": 1}, root.parent / "others"))).images
    assert threshold_use(None, others, about) == Use((0, 1, 2, 3)), "these are equal"
    for wrong in ("0" * 64, "f" * 64):  # less and more than any other
        changed = threshold_use(None, images, replace(about, digest=wrong))
        assert changed.found == () and changed.unknown.startswith("the images that it was fitted")
    gone = replace(about, data=str(root / "gone"))
    assert threshold_use(None, images, gone) == Use((0, 1, 2, 3)), "the digest is theirs"
    for wrong in ("0" * 64, "f" * 64):
        changed = threshold_use(None, images, replace(gone, digest=wrong))
        assert changed.found == () and changed.unknown


def test_the_images_of_a_threshold_are_read_as_the_run_reads_them(
    make_images: Any, tmp_path: Path
) -> None:
    root = make_images({"a": 3, "b": 3})
    (root / "a/1.png").write_bytes(b"")
    config = DataConfig(path=str(root), on_unreadable="skip", max_skipped=0.5)
    images = unseen_images(str(root), None, config).images
    run: Any = SimpleNamespace(config=SimpleNamespace(data=config), path=tmp_path / "run")
    about = made(root, images)
    assert threshold_use(run, images, about) == Use(tuple(range(5)))
    part = ImageSet(images.samples[:2], images.classes)
    assert threshold_use(run, part, about) == Use((0, 1))
