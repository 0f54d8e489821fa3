"""The digest of an image set."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, Sample, Tuples


def folder(root: Path, side: int = 20, kind: str = "bmp") -> ImageSet:
    """Four noisy images whose files have one size."""
    rng = np.random.default_rng(0)
    keys = {name: [f"{name}/{i}.{kind}" for i in range(2)] for name in "ab"}
    images = ImageSet.of(root, keys)
    for sample in images.samples:
        sample.path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(sample.path)
    return images


@pytest.mark.parametrize("side", [20, 300])
@pytest.mark.parametrize("kind", ["bmp", "ppm", "tiff"])
def test_images_that_swap_their_pixels_are_noticed(tmp_path: Path, side: int, kind: str) -> None:
    images = folder(tmp_path, side, kind)
    before = digest(images)
    first, last = images.samples[0].path, images.samples[-1].path
    assert first.stat().st_size == last.stat().st_size
    first.rename(tmp_path / "other")
    last.rename(first)
    (tmp_path / "other").rename(last)
    assert digest(images) != before


@pytest.mark.parametrize("place", [0, 1000, 100_000, 1_000_000, -1])
def test_one_bit_of_a_file_of_one_megabyte_is_noticed(tmp_path: Path, place: int) -> None:
    image = tmp_path / "a.png"
    content = bytearray(1 << 20)
    image.write_bytes(content)
    images = ImageSet((Sample(image, 0, "a.png"),), ("a",))
    before = digest(images)
    content[place] ^= 1
    image.write_bytes(content)
    assert digest(images) != before


@pytest.mark.parametrize("size", [(1 << 20) + 1, 3_000_000, 100_000_000])
def test_every_changed_64th_of_a_large_file_is_noticed(tmp_path: Path, size: int) -> None:
    image = tmp_path / "a.bmp"
    with image.open("wb") as file:
        file.truncate(size)  # zeros that take no space on the disk
    images = ImageSet((Sample(image, 0, "a.bmp"),), ("a",))
    before = digest(images)
    stretch = size // 64
    for start in (0, 1, 20_000, stretch // 2, size // 2, size - stretch - 1, size - stretch):
        with image.open("r+b") as file:
            file.seek(start)
            file.write(b"\1" * stretch)
        assert digest(images) != before, start
        with image.open("r+b") as file:
            file.seek(start)
            file.write(bytes(stretch))
    assert digest(images) == before
    with image.open("r+b") as file:
        file.truncate(size + 1)
    assert digest(images) != before


def test_another_place_and_another_time_change_nothing(tmp_path: Path) -> None:
    images = folder(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = ImageSet.of(tmp_path / "there", {n: [f"{n}/{i}.bmp" for i in range(2)] for n in "ab"})
    os.utime(there.samples[0].path, (1, 1))
    assert digest(there) == digest(images)


def test_names_labels_and_roles_count(tmp_path: Path) -> None:
    images = folder(tmp_path)
    first, *others = images.samples
    assert (
        len(
            {
                digest(images),
                digest(replace(images, samples=(replace(first, key="c"), *others))),
                digest(replace(images, samples=(replace(first, label=1), *others))),
                digest(replace(images, query=(True, False, True, False))),
                digest(None),
            }
        )
        == 5
    )


def test_a_file_out_of_reach_and_a_pipe_have_no_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", "."):
        images = ImageSet((Sample(tmp_path / name, 0, "a"),), ("a",))
        assert digest(images) == digest(ImageSet((Sample(Path("/none"), 0, "a"),), ("a",)))


def test_a_file_of_several_boxes_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.data import digest as module

    read: list[Path] = []
    whole = module._content
    monkeypatch.setattr(module, "_content", lambda path: (read.append(path), whole(path))[1])
    path = folder(tmp_path).samples[0].path
    boxes = [(0.0, 0.0, 5.0, float(n)) for n in range(1, 9)]
    samples = tuple(Sample(path, 0, f"a {box}", box) for box in boxes)
    digest(ImageSet(samples, ("a",)))
    assert read == [path]


def hashed(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_the_digest_stays_that_of_the_runs_that_there_are(tmp_path: Path, size: int) -> None:
    """A run knows its data again by this number, also with a later siamkit."""
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "a.png").write_bytes(content)
    images = ImageSet((Sample(tmp_path / "a.png", 0, "k"),), ("a",))
    parts = [content]
    if size > 1 << 20:  # 65 blocks of 16 KiB, from the start to the end
        starts = [number * (size - 16_384) // 64 for number in range(65)]
        parts = [content[start : start + 16_384] for start in starts]
        assert starts[-1] + 16_384 == size
    own = hashed(f"{size}\n".encode(), *parts)
    assert digest(images) == hashed(f"k\0{0}\0{own}\n".encode())
    pair = replace(images, tuples=Tuples(((0, 0),), (True,)))
    assert digest(pair) == hashed(f"k\0{0}\0{own}\n".encode(), b"(((0, 0),), (True,), None)")
    roles = replace(images, query=(True,))
    assert digest(roles) == hashed(f"k\0{0}\0{own}\n".encode(), b"((True,), None)")
