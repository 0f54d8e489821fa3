"""The preparation of images."""

from __future__ import annotations

import pytest
from timm import data as timm

from siamkit.portable.preprocessing import Preprocessing


def test_the_preparation_is_by_default_that_of_imagenet() -> None:
    found = Preprocessing()
    assert (found.mean, found.std) == (timm.IMAGENET_DEFAULT_MEAN, timm.IMAGENET_DEFAULT_STD)
    assert found.crop_pct == timm.DEFAULT_CROP_PCT
    assert (found.channels, *found.size) == timm.resolve_data_config({"any": "value"})["input_size"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_there_is_a_mean_for_each_channel(channels: int) -> None:
    assert Preprocessing((0.5,) * channels, (0.5,) * channels).channels == channels


def test_only_the_fit_and_the_range_are_taken_from_another() -> None:
    one = Preprocessing((0.1,), (0.2,), (8, 9), "bicubic", 0.5, "crop", 12)
    other = Preprocessing((0.3,), (0.4,), (5, 6), "nearest", 0.9, "pad", (0.0, 1.0))
    assert one.fitted_as(other) == Preprocessing(
        (0.1,), (0.2,), (8, 9), "bicubic", 0.5, "pad", (0.0, 1.0)
    )
