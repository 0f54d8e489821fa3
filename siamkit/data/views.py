"""Views: images as the network gets them, after augmentation or preparation for evaluation.

A view is a pure function of (image, seed). All random operations work on 8-bit images with Pillow's
integer arithmetic, so a view depends neither on the number of threads nor on the worker process
that computes the view.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from siamkit.config import AugmentConfig
from siamkit.interfaces import Preprocessing
from siamkit.portable.geometry import Region, border_colour
from siamkit.portable.prepare import Preparer

# In pixels, at any image size: the range of SimCLR (Chen et al., ICML 2020).
_BLUR_SIGMA = (0.1, 2.0)


def view_seed(run_seed: int, view: int, key: str) -> int:
    """Return the seed, in [0, 2**63), of one view of one image.

    Args:
        run_seed: The run's seed.
        view: The number of the view, which is the epoch's number if every epoch has a new view.
        key: The image's key.
    """
    # surrogatepass: a file name may not be valid Unicode.
    text = f"{run_seed}/{view}/{key}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1


class EvalView:
    """Computes the view for evaluation: the image, fitted into the input size and normalised.

    Attributes:
        preprocessing: How the backbone wants images to be prepared.

    Args:
        preprocessing: How the backbone wants images to be prepared.

    Raises:
        ConfigError: The preprocessing names an unknown interpolation.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._prepare = Preparer(preprocessing)

    is_random = False
    """Whether the seed changes the result."""

    part = None
    """The smallest part of an image's sides that a view shows; None for that of evaluation."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the view of an image, as JSON values."""
        return {"view": 2, **asdict(self.preprocessing)}

    def __call__(self, image: Image.Image, seed: int = 0) -> Tensor:
        """Return the view ``[C, H, W]`` (float32) of ``image``; ``seed`` has no effect."""
        return torch.from_numpy(self._prepare(image))

    def resize(self, image: Image.Image) -> Image.Image:
        """Return ``image`` as the network sees it: fitted into the input, not yet normalised."""
        return self._prepare.resized(image)


class TrainView:
    """Computes random views for training: crop, rotation, flip, colours, greyscale, blur.

    For grey images, the colour operations change only brightness and contrast. They do not change
    an alpha channel. Corners that a rotation exposes get the median colour of the border.

    Args:
        preprocessing: How the backbone wants images to be prepared.
        augment: The strength of each change. If no change is on, the views are those of
            :class:`EvalView`.

    Raises:
        ConfigError: The preprocessing names an unknown interpolation.
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentConfig) -> None:
        self.preprocessing = preprocessing
        self._augment = augment
        self._eval = EvalView(preprocessing)
        self._prepare = Preparer(preprocessing)
        self._crop = v2.RandomResizedCrop(
            preprocessing.size,
            scale=augment.crop_scale,
            ratio=augment.crop_ratio,
            interpolation=InterpolationMode(preprocessing.interpolation),
        )
        self._flip = v2.RandomHorizontalFlip(augment.horizontal_flip)
        jitter = v2.ColorJitter(
            augment.brightness, augment.contrast, augment.saturation, augment.hue
        )
        self._colours = v2.Compose([jitter, v2.RandomGrayscale(augment.grayscale)])
        self._brightness = v2.ColorJitter(augment.brightness, augment.contrast)

    @property
    def is_random(self) -> bool:
        """Whether the seed changes the result."""
        return self._augment.is_random

    @property
    def part(self) -> float | None:
        """The smallest part of an image's sides that a view shows; None for that of evaluation."""
        if not self._augment.is_random:
            return None
        (scale, _), (narrow, wide) = self._augment.crop_scale, self._augment.crop_ratio
        return math.sqrt(scale * min(narrow, 1 / wide, 1.0))

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the view of an image, as JSON values."""
        if not self._augment.is_random:
            return self._eval.identity
        return {**self._eval.identity, "augment": self._augment.strengths}

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """Return the view ``[C, H, W]`` (float32) of ``image`` with this seed.

        The random state of torch is the same before and after the call.
        """
        if not self._augment.is_random:
            return self._eval(image)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed every accelerator too.
            torch.default_generator.manual_seed(seed)
            return torch.from_numpy(self._prepare.normalised(self._change(image)))

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Return a random crop of ``image``, resized to the input size.

        With ``fit: crop``, the crop has a random aspect ratio and is squashed to the input's. With
        the other fits, the crop has the aspect ratio of the image, up to a random change, and is
        fitted into the input as in evaluation. So training sees the same shapes as evaluation, and
        about the same scale.
        """
        if self.preprocessing.fit == "crop":
            cropped: Image.Image = self._crop(image)
            return cropped
        # The crop is drawn in a square. Its sides then scale to the width and height of the image.
        side = max(image.size)
        square = torch.empty(1, side, side, device="meta")
        scale, ratio = self._augment.crop_scale, self._augment.crop_ratio
        top, left, height, width = RandomResizedCrop.get_params(square, list(scale), list(ratio))
        x, y = image.width / side, image.height / side
        part = Region(left * x, top * y, (left + width) * x, (top + height) * y)
        return self._prepare.fitted(image, part)

    def _change(self, image: Image.Image) -> Image.Image:
        image = self._cropped(image)
        if self._augment.rotate:
            angle = _uniform(-self._augment.rotate, self._augment.rotate)
            image = image.rotate(
                angle, Image.Resampling.BILINEAR, fillcolor=_premultiplied(border_colour(image))
            )
        image = self._flip(image)
        alpha = image.getchannel("A") if image.mode.endswith("A") else None
        if image.mode.startswith("L"):
            image = self._brightness(image.convert("L") if alpha else image)
        else:
            image = self._colours(image.convert("RGB") if alpha else image)
        if alpha:
            image.putalpha(alpha)
        if self._augment.blur and _uniform(0, 1) < self._augment.blur:
            image = image.filter(ImageFilter.GaussianBlur(_uniform(*_BLUR_SIGMA)))
        return image


def _premultiplied(colour: tuple[int, ...]) -> tuple[int, ...]:
    """Return a fill colour for a rotation, which Pillow does on premultiplied colours.

    Pillow converts the image if it has an alpha channel, but takes the fill colour as it is.
    """
    if len(colour) not in (2, 4):  # LA and RGBA
        return colour
    *channels, alpha = colour
    return *(round(value * alpha / 255) for value in channels), alpha


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
