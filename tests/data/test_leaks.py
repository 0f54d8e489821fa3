import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from siamkit.data import leaks
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.data.leaks import Contents, Group, repeated_notices, require_apart
from siamkit.errors import DataError


def picture(seed: int) -> Image.Image:
    """Return a smooth picture, because the hash reads low frequencies, which noise lacks."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)


def image_set(root: Path, part: str, pictures: dict[str, Image.Image]) -> ImageSet:
    (root / part).mkdir()
    for name, image in pictures.items():
        image.save(root / part / name)
    keys = sorted(f"{part}/{name}" for name in pictures)
    return ImageSet(tuple(Sample(root / key, 0, key) for key in keys), ("a",))


def keys(groups: list[Group]) -> list[set[str]]:
    return [{member.key for member in group.members} for group in groups]


def test_equal_content_is_found_whatever_its_name(tmp_path: Path) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1), "2.png": picture(2)})
    val = image_set(tmp_path, "val", {"x.png": picture(2), "y.png": picture(3)})
    [group] = Contents({"train": train, "val": val}).leaks()
    assert (group.parts, keys([group])) == (["train", "val"], [{"train/2.png", "val/x.png"}])
    assert str(group) == "train/2.png (train) and val/x.png (val)"
    assert Contents({"train": train}).leaks() == []


def test_copies_are_one_group_and_no_near_one(tmp_path: Path) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1), "2.png": picture(1)})
    val = image_set(tmp_path, "val", {"x.png": picture(1)})
    contents = Contents({"train": train, "val": val})
    [group] = contents.leaks()
    assert len(group) == 3
    assert str(group) == "train/1.png (train) and val/x.png (val), and 1 more image"
    assert contents.near_duplicates() == []


@pytest.mark.slow
def test_many_copies_take_time_and_memory_in_proportion(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    copies = 20_000
    samples = tuple(Sample(tmp_path / "1.png", i % 100, f"{i}.png") for i in range(copies))
    classes = tuple(f"c{i:02}" for i in range(100))
    sets = {part: ImageSet(samples, classes) for part in ("train", "val")}
    tracemalloc.start()
    contents = Contents(sets)
    [leak], [conflict], near = contents.leaks(), contents.conflicts(), contents.near_duplicates()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(leak), len(conflict), near) == (2 * copies, 2 * copies, [])
    assert len(conflict.labels) == 100
    assert peak < 40e6  # bytes; the pairs would be 400 million
    [notice] = require_apart(Contents(sets), "data", strict=False)
    assert "1 group of images" in notice and "and 39998 more images" in notice
    assert len(notice) < 500


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1)})
    val = image_set(tmp_path, "val", {"x.png": Image.new("RGB", (9, 9))})
    monkeypatch.setattr("siamkit.data.rowkeys._digest", lambda path: pytest.fail("was read"))
    assert Contents({"train": train, "val": val}).leaks() == []


def test_two_boxes_of_one_file_are_two_images(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "p.png")
    boxes = [(0, 0, 32, 64), (32, 0, 64, 64)]
    left, right = (
        ImageSet((Sample(tmp_path / "p.png", 0, f"p.png#{box}", box),), ("a",)) for box in boxes
    )
    assert Contents({"train": left, "val": right}).leaks() == []
    assert len(Contents({"train": left, "val": left}).leaks()) == 1


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    images = ImageSet((Sample(tmp_path / "gone.png", 0, "gone.png"),), ("a",))
    with pytest.raises(DataError, match=r"gone\.png: cannot read the image: No such file"):
        Contents({"train": images})


def test_one_image_with_two_labels_is_a_conflict(tmp_path: Path) -> None:
    for name in "abc":
        picture(0 if name < "c" else 1).save(tmp_path / f"{name}.png")
    samples = tuple(Sample(tmp_path / f"{n}.png", i, f"{n}.png") for i, n in enumerate("abc"))
    images = ImageSet(samples, ("cat", "dog", "owl"))
    [group] = Contents({"train": images}).conflicts()
    assert (keys([group]), group.labels) == ([{"a.png", "b.png"}], ["cat", "dog"])
    known = replace(images, tuples=Tuples(((0, 1),), (False,)))
    assert Contents({"train": known}).conflicts() == []


def test_a_copy_with_another_label_in_another_split_is_a_leak_and_a_conflict(
    tmp_path: Path,
) -> None:
    train = image_set(tmp_path, "train", {"1.png": picture(1)})
    val = replace(image_set(tmp_path, "val", {"2.png": picture(1)}), classes=("b",))
    contents = Contents({"train": train, "val": val})
    assert keys(contents.leaks()) == keys(contents.conflicts()) == [{"train/1.png", "val/2.png"}]


def test_the_largest_group_comes_first(tmp_path: Path) -> None:
    train = image_set(tmp_path, "train", {f"{i}.png": picture(i > 0) for i in range(4)})
    val = image_set(tmp_path, "val", {f"{i}.png": picture(i) for i in range(2)})
    assert [len(group) for group in Contents({"train": train, "val": val}).leaks()] == [4, 2]


def test_strict_makes_a_leak_an_error(tmp_path: Path) -> None:
    sets = {
        part: image_set(tmp_path, part, {f"{i}.png": picture(i) for i in range(12)})
        for part in ("train", "test")
    }
    [notice] = require_apart(Contents(sets), "data", strict=False)
    assert (
        notice.startswith("12 groups of images with the same content are in two splits")
        and "... and" not in notice
    )
    assert notice.count("\n") == 4, "three of the groups, and where to see all"
    with pytest.raises(DataError, match=r"(?s)data: 12 groups of images.*\.\.\. and 2 more"):
        require_apart(Contents(sets), "data", strict=True)
    assert require_apart(Contents({"train": sets["train"]}), "data", strict=True) == []


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
    steps = []
    contents = Contents({"train": train, "val": val, "test": plain})
    found = contents.near_duplicates(lambda *step: steps.append(step))
    assert keys(found) == [{"train/3.png", "val/smaller.jpg"}, {"train/7.png", "val/blurred.png"}]
    assert steps[-1] == ("compare images", 25, 25), "copies are hashed once"


@pytest.mark.parametrize(("bits", "near"), [(1, True), (4, True), (5, False), (64, False)])
def test_images_look_the_same_if_at_most_four_of_their_64_bits_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, near: bool
) -> None:
    other = (2**bits - 1) ^ 0x0123456789ABCDEF
    known = {"1.png": 0x0123456789ABCDEF, "x.png": other}
    monkeypatch.setattr(leaks, "_perceptual_hash", lambda sample, how: known[sample.path.name])
    train = image_set(tmp_path, "train", {"1.png": picture(1)})
    val = image_set(tmp_path, "val", {"x.png": picture(2)})
    found = Contents({"train": train, "val": val}).near_duplicates()
    assert keys(found) == [{"train/1.png", "val/x.png"}] * near


def test_near_copies_of_one_image_are_one_group(tmp_path: Path) -> None:
    shades = {f"{i:02}.png": picture(3).point(lambda v, i=i: max(v - i, 0)) for i in range(12)}
    train = image_set(tmp_path, "train", shades | {"copy.png": shades["00.png"]})
    val = image_set(tmp_path, "val", {"smaller.png": picture(3).resize((40, 40))})
    [group] = Contents({"train": train, "val": val}).near_duplicates()
    assert len(group) == 14 and group.parts == ["train", "val"]
    assert Contents({"train": train}).near_duplicates() == []


def test_copies_within_a_split_are_found_and_counted(tmp_path: Path) -> None:
    pictures = {"1.png": picture(1), "2.png": picture(1), "3.png": picture(1), "4.png": picture(2)}
    train = image_set(tmp_path, "train", {"x.png": picture(3), "y.png": picture(2)})
    val = image_set(tmp_path, "val", pictures)
    contents = Contents({"train": train, "val": val})
    assert keys(contents.copies()) == [{"val/1.png", "val/2.png", "val/3.png"}]
    assert (contents.repeated("train"), contents.repeated("val")) == (0, 3)
    (notice,) = repeated_notices(contents, "val", "validation image")
    assert notice.startswith("3 validation images have a copy of the same class beside them")
    assert repeated_notices(contents, "train", "image") == []


def test_copies_of_another_class_are_conflicts_only(tmp_path: Path) -> None:
    val = image_set(tmp_path, "val", {"1.png": picture(1), "2.png": picture(1)})
    samples = (val.samples[0], replace(val.samples[1], label=1))
    contents = Contents({"val": ImageSet(samples, ("a", "b"))})
    assert (contents.copies(), contents.repeated("val"), len(contents.conflicts())) == ([], 0, 1)


def test_boxes_that_cut_out_the_same_pixels_are_one_image(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "p.png")
    sets = {
        part: ImageSet((Sample(tmp_path / "p.png", 0, f"p.png#{part}", box),), ("a",))
        for part, box in (("train", (0.2, 0, 20, 30)), ("val", (0.7, 0.1, 19.5, 30)),
                          ("test", (0, 0, 21, 30)))
    }  # fmt: skip
    [leak] = Contents(sets).leaks()
    assert leak.parts == ["train", "val"]
