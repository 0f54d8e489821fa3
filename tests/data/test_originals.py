"""Originals and copies of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamkit.data.copies import lossy_copy
from siamkit.data.images import Sample
from siamkit.data.originals import original
from siamkit.portable.decode import Decoding


def saved(path: Path, pixels: np.ndarray) -> Sample:
    Image.fromarray(pixels).save(path)
    return Sample(path, 0, path.name)


def test_the_original_has_its_colours_whatever_the_network_takes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    found = original(saved(tmp_path / "a.png", pixels), Decoding(channels=1))
    assert np.array_equal(np.asarray(found.image), pixels) and found.values is None


def test_a_deep_original_is_drawn_from_its_own_darkest_to_its_own_brightest_value(tmp_path):
    pixels = np.array([[300, 1000, 3000]], np.uint16)
    sample = saved(tmp_path / "deep.png", pixels)
    for value_range in (None, 12, (0, 500)):  # a wrong range must not hide what the file holds
        found = original(sample, Decoding(value_range=value_range))
        assert found.values == (300, 3000)
        assert np.asarray(found.image)[0, :, 0].tolist() == [0, 66, 255]


def test_a_deep_original_of_one_value_can_be_drawn(tmp_path):
    found = original(saved(tmp_path / "flat.png", np.full((2, 2), 7, np.uint16)), Decoding())
    assert found.values == (7, 7) and np.asarray(found.image).max() == 0


def test_the_original_of_a_box_is_the_box(tmp_path):
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    whole = saved(tmp_path / "a.png", pixels)
    part = original(Sample(whole.path, 0, "a", (2, 3, 6, 9)), Decoding())
    assert np.array_equal(np.asarray(part.image), pixels[3:9, 2:6])


def test_a_large_original_is_reduced_and_says_its_size(tmp_path):
    found = original(saved(tmp_path / "a.png", np.zeros((100, 2000, 3), np.uint8)), Decoding())
    assert found.size == (2000, 100) and found.image.size == (1144, 57)
    small = original(saved(tmp_path / "b.png", np.zeros((5, 9, 3), np.uint8)), Decoding())
    assert small.size == small.image.size == (9, 5)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (40, 30)])
def test_a_copy_differs_a_little_and_keeps_the_mode(mode, size):
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    image = Image.fromarray(ramp).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(255 - ramp))
    copy = lossy_copy(image)
    assert copy.mode == mode
    assert copy.size == (max(round(0.9 * size[0]), 1), max(round(0.9 * size[1]), 1))
    difference = np.asarray(copy.resize(size), np.float64) - np.asarray(image, np.float64)
    assert abs(difference).mean() < 12
