"""The judge: the notices about what a preparation loses of images."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamkit.portable import judging
from siamkit.portable.decode import Decoding
from siamkit.portable.geometry import centre_crop
from siamkit.portable.judging import Looks, judge, judge_files, judge_pictures, size_of
from siamkit.portable.looking import Values, look
from siamkit.portable.preprocessing import Preprocessing, ValueRange

CROP = Preprocessing(crop_pct=1.0)
SIDES = st.integers(50, 3000)


@dataclass(frozen=True)
class Model:
    preprocessing: Preprocessing = CROP

    @property
    def decoding(self) -> Decoding:
        return Decoding.of(self.preprocessing)


def saved(path: Path, pixels: Any) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("size", [(60, 60), (400, 300), (300, 200), (333, 500), (640, 426)])
def test_photographs_are_cropped_without_a_word(size: tuple[int, int]) -> None:
    assert judge(Looks([size]), Preprocessing()) == []


@pytest.mark.parametrize(("size", "lost"), [((160, 40), 75), ((40, 160), 75), ((96, 60), 38)])
def test_a_considerable_loss_is_told_with_its_share(size: tuple[int, int], lost: int) -> None:
    (notice,) = judge(Looks([size, (50, 50)]), CROP, "test image")
    assert notice.startswith(f"the centre crop leaves out {lost}% of the area of 1 of 2 test ")
    assert "margin" not in notice and "pad" in notice and "squash" in notice
    for fit in ("pad", "squash"):
        assert judge(Looks([size]), replace(CROP, fit=fit)) == []  # type: ignore[arg-type]


@given(SIDES, SIDES, st.sampled_from([0.875, 0.95, 0.9, 0.5]))
def test_the_shares_of_shape_and_margin_are_those_of_the_crop(
    width: int, height: int, crop_pct: float
) -> None:
    images = Preprocessing(crop_pct=crop_pct)
    notices = judge(Looks([(width, height)]), images)
    region = centre_crop((width, height), (224, 224), crop_pct)
    kept = (region.right - region.left) * (region.bottom - region.top) / (width * height)
    assert bool(notices) == (min(width, height) / max(width, height) < 0.65)
    for notice in notices:
        shape, margin = (float(part.split()[-1]) for part in notice.split("%")[:2])
        assert shape + margin == pytest.approx(100 * (1 - kept), abs=2.5)


def test_a_size_that_is_not_square_decides_what_is_lost() -> None:
    wide = replace(CROP, size=(100, 200))
    assert judge(Looks([(240, 120)]), wide) == []
    assert "leaves out 50%" in judge(Looks([(100, 100)]), wide)[0]


@pytest.mark.parametrize(
    ("value_range", "largest", "dark"),
    [
        (None, 4095, True), (None, 16_383, True), (None, 16_384, False), (None, 60_000, False),
        (12, 1000, True), (12, 2000, False), ((1000.0, 2000.0), 1250, True),
        ((1000.0, 2000.0), 1251, False), ((0.0, 1.0), 4095, False), (None, None, False),
    ],
)  # fmt: skip
def test_values_in_the_lowest_quarter_of_the_range_are_told(
    value_range: ValueRange, largest: float | None, dark: bool
) -> None:
    images = replace(CROP, value_range=value_range)
    values = None if largest is None else Values(largest, 0.0)
    notices = judge(Looks([(9, 9)], grey=3, values=values, read=3), images)
    assert len(notices) == dark
    if value_range is None and dark:
        assert notices[0].startswith(
            f"the values of 3 images of more than 8 bits end at {largest}, but 65535 is white"
        )


def test_a_range_that_leaves_out_nearly_all_pixels_is_told(tmp_path: Path) -> None:
    pixels = np.linspace(1000, 4000, 400).astype(np.uint16).reshape(20, 20)
    path = saved(tmp_path / "a.png", pixels)
    for value_range, outside in {
        (0.0, 1.0): 1.0, (1000.0, 1200.0): 0.93, (3900.0, 4000.0): 0.965, (1900.0, 2100.0): 0.93,
        (0.0, 4095.0): 0.0, (1000.0, 1400.0): 0.0,
    }.items():  # fmt: skip
        model = Model(replace(CROP, value_range=value_range))
        notices = judge_files([path], model)
        assert judge_pictures([pixels], model) == notices
        assert len(notices) == bool(outside)
        if outside:
            assert notices[0].startswith(f"{outside:.0%} of the pixels of 1 image of more than 8 b")


def test_colour_images_of_16_bits_are_told() -> None:
    assert judge(Looks([(9, 9)], colour=1), CROP)[0].startswith("1 colour image has 16 bits")
    text = judge(Looks([(9, 9)], colour=2), CROP, "test image")[0]
    assert text.startswith("2 colour test images have 16 bits per channel")


def test_files_are_judged_and_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    wide = saved(tmp_path / "a.png", np.zeros((40, 160), np.uint8))
    deep = saved(tmp_path / "b.png", np.full((20, 20), 4000, np.uint16))
    broken = tmp_path / "c.png"
    broken.write_bytes(b"")
    shape, depth = judge_files([wide, deep, broken, tmp_path / "none.png"], Model())
    assert "of 1 of 2 images" in shape
    assert "the values of 1 image of more than 8 bits end at 4000" in depth
    assert judge_files([broken], Model()) == []


def test_values_that_the_range_refuses_are_left_to_whoever_uses_the_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.full((20, 20), 5000, np.uint16))
    assert judge_files([path], Model(replace(CROP, value_range=12))) == []


def test_images_in_memory_are_judged_as_files_are(tmp_path: Path) -> None:
    pixels: list[Any] = [
        np.zeros((40, 160), np.uint8), np.full((20, 20), 4000, np.uint16),
        np.zeros((20, 20, 3), np.uint8),
    ]  # fmt: skip
    paths = [saved(tmp_path / f"{n}.png", image) for n, image in enumerate(pixels)]
    expected = judge_files(paths, Model())
    assert len(expected) == 2
    assert judge_pictures(pixels, Model()) == expected
    assert judge_pictures([Image.fromarray(image) for image in pixels], Model()) == expected
    assert judge_pictures([np.zeros(3), pixels[2]], Model()) == []
    assert judge_pictures([np.array([[0, 60_000]] * 2, np.uint16)], Model()) == [], "up to white"


def test_of_many_images_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    look, values = judging.look, judging.values_of
    monkeypatch.setattr(judging, "look", lambda paths, how: look((read.extend(paths), paths)[1]))
    decoded: list[int] = []
    monkeypatch.setattr(
        judging, "values_of", lambda some, how: (decoded.append(len(some)), values(some))[1]
    )
    deep = saved(tmp_path / "deep.png", np.full((40, 160), 4000, np.uint16))
    shape, depth = judge_files([deep] * 20_000, Model())
    assert len(read) == 500 and decoded == [16]
    assert "of 500 of 500 sampled images" in shape
    assert "the values of 500 sampled images of more than 8 bits end at 4000 (16 of them" in depth
    paths = [tmp_path / f"{number}.png" for number in range(1001)]
    read.clear()
    judge_files(paths, Model())
    assert len(set(read)) == 500 and read[0] == paths[0] and read[-1] in paths[-3:]


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (None, (40, 30)),
        ((5.0, 2.0, 25.0, 12.0), (20, 10)),
        ((5.5, 2.5, 8.4, 4.4), (2, 1)),
        ((1.2, 1.2, 1.4, 1.4), (1, 1)),
    ],
)
def test_a_box_has_a_size_of_its_own(tmp_path: Path, box: Any, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "a.png", np.zeros((30, 40), np.uint8))
    [facts] = look([path], Model().decoding)
    assert size_of(facts, box) == size


def colour_of_16_bits() -> bytes:
    """Return a PNG file of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + b"\x12\x34" * 3)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_colour_images_of_16_bits_are_told_in_files_and_in_memory(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path in paths:
        path.write_bytes(colour_of_16_bits())
    [notice] = judge_files(paths, Model())
    assert notice.startswith("2 colour images have 16 bits per channel")
    pictures = [Image.open(io.BytesIO(path.read_bytes())) for path in paths]
    assert judge_pictures(pictures, Model()) == [notice]
    plain = np.zeros((20, 20, 3), np.uint8)
    [one] = judge_pictures([plain, pictures[0], plain], Model())
    assert one.startswith("1 colour image has 16 bits per channel")


def test_pictures_that_cannot_be_used_are_left_out() -> None:
    wide = np.zeros((20, 200, 3), np.uint8)
    [notice] = judge_pictures([wide, "no picture"], Model())
    assert "90% of the area of 1 of 1 sampled image;" in notice
    assert judge_pictures([], Model()) == []
