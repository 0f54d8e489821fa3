from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamkit.portable.geometry import (
    Region,
    border_colour,
    centre_crop,
    kept_by_crop,
    padded,
    resampled,
)

SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)
TARGETS = st.tuples(st.integers(16, 512), st.integers(16, 512))


@pytest.mark.parametrize(
    ("size", "target", "share"),
    [
        ((60, 60), (224, 224), 1.0),
        ((240, 60), (224, 224), 0.25),
        ((60, 240), (224, 224), 0.25),
        ((400, 300), (224, 224), 0.75),
        ((400, 200), (200, 100), 1.0),
        ((100, 100), (200, 100), 0.5),
    ],
)
def test_a_crop_keeps_the_part_of_the_targets_shape(
    size: tuple[int, int], target: tuple[int, int], share: float
) -> None:
    assert kept_by_crop(size, target) == pytest.approx(share)


@given(SIZES, TARGETS, st.floats(0.5, 1.0))
def test_a_centre_crop_lies_within_the_image(
    size: tuple[int, int], target: tuple[int, int], crop_pct: float
) -> None:
    left, top, right, bottom = centre_crop(size, target, crop_pct)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize(
    ("size", "target", "crop_pct", "region"),
    [
        # 74 x 37 pixels after the resize, of which 32 x 32 in the middle are kept.
        ((100, 50), (32, 32), 0.875, (21 * 100 / 74, 2 * 50 / 37, 53 * 100 / 74, 34 * 50 / 37)),
        ((50, 100), (32, 32), 0.875, (2 * 50 / 37, 21 * 100 / 74, 34 * 50 / 37, 53 * 100 / 74)),
        ((10, 10), (32, 32), 1.0, (0, 0, 10, 10)),
        # The input is wide: the height decides.
        ((60, 60), (40, 20), 1.0, (0, 15, 60, 45)),
        # 21 * (236 / 21) is a little less than 236 in floating-point numbers.
        ((21, 21), (224, 224), 0.95, (6 * 21 / 236, 6 * 21 / 236, 230 * 21 / 236, 230 * 21 / 236)),
    ],
)
def test_a_centre_crop_keeps_the_middle_of_the_resized_image(
    size: tuple[int, int], target: tuple[int, int], crop_pct: float, region: tuple[float, ...]
) -> None:
    assert centre_crop(size, target, crop_pct) == pytest.approx(region)


@given(SIZES, TARGETS)
def test_padding_keeps_all_in_the_targets_shape(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    part = Region(0, 0, *size)
    left, top, right, bottom = padded(part, target)
    assert left <= 0 and top <= 0 and right >= size[0] and bottom >= size[1]
    assert (right - left) / (bottom - top) == pytest.approx(target[0] / target[1])
    assert left + right == pytest.approx(size[0]) and top + bottom == pytest.approx(size[1])
    # Only one pair of sides gets a border.
    assert left == 0 or top == 0


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.tuples(*[st.integers(1, 64)] * 2))
def test_every_shape_has_a_padded_form(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    region = padded(Region(0, 0, *size), target)
    result = resampled(image, region, target, Image.Resampling.BICUBIC)
    assert result.size == target
    # The border has the colour of the image's own border.
    assert np.asarray(result).reshape(-1, 3).tolist() == [[255, 0, 0]] * (target[0] * target[1])


def test_a_padded_image_holds_the_whole_image_between_its_borders() -> None:
    pixels = np.full((10, 40, 3), 200, np.uint8)
    pixels[2:8, 2:38] = np.random.default_rng(0).integers(0, 256, (6, 36, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    region = padded(Region(0, 0, 40, 10), (40, 40))
    result = np.asarray(resampled(image, region, (40, 40), Image.Resampling.BILINEAR))
    assert np.array_equal(result[15:25], pixels)
    assert (result[:15] == 200).all() and (result[25:] == 200).all()


def test_a_region_within_the_image_is_a_plain_resize() -> None:
    image = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    region = Region(2.5, 3, 17, 18.25)
    expected = image.resize((8, 8), Image.Resampling.BICUBIC, region)
    result = resampled(image, region, (8, 8), Image.Resampling.BICUBIC)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("mode", "colour"), [("L", (7,)), ("LA", (7, 9)), ("RGBA", (1, 2, 3, 4))])
def test_the_colour_of_the_border_is_a_median(mode: str, colour: tuple[int, ...]) -> None:
    image = Image.new(mode, (9, 7), 0 if len(colour) == 1 else (0,) * len(colour))
    fill = colour[0] if len(colour) == 1 else colour
    for x in range(9):
        for y in (0, 6):
            image.putpixel((x, y), fill)
    for y in range(1, 6):
        image.putpixel((0, y), fill)
    assert border_colour(image) == colour
