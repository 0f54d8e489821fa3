import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from siamkit.data.images import ImageSet, Sample
from siamkit.data.leaks import NEAR_BITS, conflicts, leaks, near_duplicates, require_apart
from siamkit.errors import DataError


def picture(seed: int) -> Image.Image:
    """A smooth picture: noise has no low frequencies to hash."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)


def image_set(root: Path, part: str, pictures: dict[str, Image.Image]) -> ImageSet:
    (root / part).mkdir()
    for name, image in pictures.items():
        image.save(root / part / name)
    keys = sorted(f"{part}/{name}" for name in pictures)
    return ImageSet(tuple(Sample(root / key, 0, key) for key in keys), ("a",))


def test_equal_content_is_found_whatever_its_name(tmp_path: Path) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1), "2.png": picture(2)})
    val = image_set(tmp_path, "val", {"x.png": picture(2), "y.png": picture(3)})
    [twins] = leaks({"train": train, "val": val})
    assert (twins.parts, twins.keys) == (("train", "val"), ("train/2.png", "val/x.png"))
    assert str(twins) == "train/2.png (train) and val/x.png (val)"
    assert leaks({"train": train}) == []


def test_every_copy_is_told_and_none_as_a_near_one(tmp_path: Path) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1), "2.png": picture(1)})
    val = image_set(tmp_path, "val", {"x.png": picture(1)})
    sets = {"train": train, "val": val}
    assert {twins.keys[0] for twins in leaks(sets)} == {"train/1.png", "train/2.png"}
    assert near_duplicates(sets) == []


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1)})
    val = image_set(tmp_path, "val", {"x.png": Image.new("RGB", (9, 9))})
    monkeypatch.setattr("siamkit.data.rowkeys._digest", lambda path: pytest.fail("was read"))
    assert leaks({"train": train, "val": val}) == []


def test_two_boxes_of_one_file_are_two_images(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "p.png")
    boxes = [(0, 0, 32, 64), (32, 0, 64, 64)]
    left, right = (
        ImageSet((Sample(tmp_path / "p.png", 0, f"p.png#{box}", box),), ("a",)) for box in boxes
    )
    assert leaks({"train": left, "val": right}) == []
    assert len(leaks({"train": left, "val": left})) == 1


def test_one_image_with_two_labels_is_a_conflict(tmp_path: Path) -> None:
    for name in "abc":
        picture(0 if name < "c" else 1).save(tmp_path / f"{name}.png")
    samples = tuple(Sample(tmp_path / f"{n}.png", i, f"{n}.png") for i, n in enumerate("abc"))
    [twins] = conflicts(ImageSet(samples, ("cat", "dog", "owl")))
    assert (twins.keys, twins.classes) == (("a.png", "b.png"), ("cat", "dog"))


def test_strict_makes_a_leak_an_error(tmp_path: Path) -> None:
    sets = {
        part: image_set(tmp_path, part, {f"{i}.png": picture(i) for i in range(12)})
        for part in ("train", "test")
    }
    [notice] = require_apart(sets, "data", strict=False)
    assert (
        notice.startswith("12 pairs of images with the same content are in two splits")
        and "... and" not in notice
    )
    with pytest.raises(DataError, match=r"(?s)data: 12 pairs of images.*\.\.\. and 2 more"):
        require_apart(sets, "data", strict=True)
    assert require_apart({"train": sets["train"]}, "data", strict=True) == []


def test_what_looks_the_same_is_found(tmp_path: Path) -> None:
    originals = {f"{i}.png": picture(i) for i in range(20)}
    train = image_set(tmp_path, "train", originals)
    val = image_set(tmp_path, "val", {
        "smaller.jpg": picture(3).resize((40, 40)),
        "blurred.png": picture(7).filter(ImageFilter.GaussianBlur(1)),
        "equal.png": picture(9),
        "other.png": picture(99),
        "plain.png": Image.new("RGB", (64, 64), "red"),
    })  # fmt: skip
    plain = image_set(tmp_path, "test", {"plain.png": Image.new("RGB", (64, 64), "blue")})
    found = near_duplicates({"train": train, "val": val, "test": plain})
    assert {twins.keys for twins in found} == {
        ("train/3.png", "val/smaller.jpg"), ("train/7.png", "val/blurred.png"),
    }  # fmt: skip
    assert all(twins.bits is not None and twins.bits <= NEAR_BITS for twins in found)


def test_near_duplicates_agree_with_comparing_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagehash

    monkeypatch.setattr("siamkit.data.leaks._BLOCK", 7)  # several blocks
    monkeypatch.setattr("siamkit.data.leaks.NEAR_BITS", 26)
    sets = {
        part: image_set(tmp_path, part, {f"{i}.png": picture(100 * n + i) for i in range(9)})
        for n, part in enumerate(("train", "val"))
    }
    hashes = {
        s.key: imagehash.phash(Image.open(s.path)) for part in sets.values() for s in part.samples
    }
    wanted = {
        (a.key, b.key, hashes[a.key] - hashes[b.key])
        for a, b in itertools.product(sets["train"].samples, sets["val"].samples)
        if hashes[a.key] - hashes[b.key] <= 26
    }
    assert wanted
    assert {(*twins.keys, twins.bits) for twins in near_duplicates(sets)} == wanted
