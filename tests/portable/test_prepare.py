from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from siamkit.data.views import EvalView
from siamkit.errors import ConfigError
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.prepare import Preparer
from siamkit.portable.preprocessing import Interpolation, Preprocessing

from .odd import odd_images

IMAGENET = Preprocessing(size=(64, 64))
MEANS = {1: (0.449,), 2: (0.449, 0.5), 3: IMAGENET.mean, 4: (*IMAGENET.mean, 0.7)}
STDS = {1: (0.226,), 2: (0.226, 0.3), 3: IMAGENET.std, 4: (*IMAGENET.std, 0.1)}


def by_torchvision(image: Image.Image, how: Preprocessing) -> torch.Tensor:
    pixels = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    return F.normalize(pixels, list(how.mean), list(how.std))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_value_of_a_pixel_has_the_bits_that_torchvision_gives(channels):
    how = Preprocessing(MEANS[channels], STDS[channels], (16, 16))
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(channels, axis=2)
    image = Image.fromarray(every[..., 0] if channels == 1 else every)
    result = Preparer(how).normalised(image)
    assert result.tobytes() == by_torchvision(image, how).numpy().tobytes()
    assert result.shape == (channels, 16, 16) and result.dtype == np.float32


def test_odd_images_have_the_same_bits_in_training_and_in_the_runtime(tmp_path: Path):
    files = odd_images(tmp_path)
    fits, methods = ("crop", "pad", "squash"), ("bilinear", "bicubic", "nearest")
    for channels, fit, method in itertools.product(MEANS, fits, methods):
        how = Preprocessing(MEANS[channels], STDS[channels], (48, 64), method, 0.9, fit)
        view, prepare = EvalView(how), Preparer(how)
        for kind, path in files.items():
            image = decode(path, Decoding.of(how))
            result = prepare(image)
            assert result.shape == (channels, 48, 64), kind
            assert view(image).numpy().tobytes() == result.tobytes(), kind
            seen = view.resize(image)
            assert by_torchvision(seen, how).numpy().tobytes() == result.tobytes(), kind


def test_the_result_does_not_share_memory_with_the_image():
    image = Image.new("RGB", (8, 8), "red")
    result = Preparer(Preprocessing(size=(8, 8), fit="squash"))(image)
    before = result.copy()
    image.paste("blue", (0, 0, 8, 8))
    assert (result == before).all() and result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("name", get_args(Interpolation))
def test_images_are_prepared_with_every_known_interpolation(name: str) -> None:
    prepared = Preparer(Preprocessing(size=(8, 8), interpolation=name))(Image.new("RGB", (20, 10)))
    assert prepared.shape == (3, 8, 8)
    with pytest.raises(ConfigError, match="unknown interpolation, got 'random', allowed: nearest"):
        Preparer(Preprocessing(interpolation="random"))
