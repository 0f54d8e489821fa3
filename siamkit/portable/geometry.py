"""Geometry: how an image of any shape becomes the network's input.

There are three ways: ``crop`` keeps the centre, ``pad`` adds a border, and ``squash`` changes the
aspect ratio.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the upright image; right and bottom are exclusive."""


Boxed = tuple[Path, Box | None]
"""An image: its file, and the box of the file that is the image; None for the whole file."""


class Region(NamedTuple):
    """A part of an image, in pixels. It may extend beyond the image's border."""

    left: float
    top: float
    right: float
    bottom: float


def whole_pixels(box: Box | None) -> tuple[int, int, int, int] | None:
    """Return a box, widened to the whole pixels that are cut out for it."""
    if box is None:
        return None
    return int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3])


def kept_by_crop(size: Size, target: Size) -> float:
    """Return the share of an image's area that a centre crop of the target's shape can keep.

    Args:
        size: Width and height of the image.
        target: Width and height of the network's input.
    """
    (width, height), (to_width, to_height) = size, target
    wide, tall = width * to_height, height * to_width
    return min(wide, tall) / max(wide, tall)


def centre_crop(size: Size, target: Size, crop_pct: float) -> Region:
    """Return the region of an image that remains after a resize followed by a centre crop.

    Args:
        size: Width and height of the image.
        target: Width and height of the network's input, which is the size of the crop.
        crop_pct: The share of the resized image's shorter side that the crop keeps.
    """
    (image_width, image_height), (width, height) = size, target
    scale = max(round(height / crop_pct) / image_height, round(width / crop_pct) / image_width)
    full_w = max(int(image_width * scale + 1e-6), width)
    full_h = max(int(image_height * scale + 1e-6), height)
    left, top = round((full_w - width) / 2), round((full_h - height) / 2)
    x, y = image_width / full_w, image_height / full_h
    right = min((left + width) * x, image_width)
    bottom = min((top + height) * y, image_height)
    return Region(left * x, top * y, right, bottom)


def padded(part: Region, target: Size) -> Region:
    """Return the smallest region of the target's shape that contains a part and has its centre."""
    width, height = part.right - part.left, part.bottom - part.top
    more_w = max(height * target[0] / target[1] - width, 0) / 2
    more_h = max(width * target[1] / target[0] - height, 0) / 2
    return Region(part.left - more_w, part.top - more_h, part.right + more_w, part.bottom + more_h)


def resampled(
    image: Image.Image, region: Region, target: Size, resample: Image.Resampling
) -> Image.Image:
    """Return a region of an image at the target's size.

    Pixels beyond the image get the median colour of the image's border, which is usually the
    background. Only the pixels of the result are computed.
    """
    inner = Region(
        max(region.left, 0),
        max(region.top, 0),
        min(region.right, image.width),
        min(region.bottom, image.height),
    )
    if inner == region:
        return image.resize(target, resample, inner)
    left, right = _span(region.left, region.right, inner.left, inner.right, target[0])
    top, bottom = _span(region.top, region.bottom, inner.top, inner.bottom, target[1])
    result = Image.new(image.mode, target, border_colour(image))
    result.paste(image.resize((right - left, bottom - top), resample, inner), (left, top))
    return result


def _span(low: float, high: float, first: float, last: float, pixels: int) -> tuple[int, int]:
    """Return the first and the end pixel of ``first`` to ``last`` within ``low`` to ``high``.

    Args:
        low: Where the whole interval starts.
        high: Where the whole interval ends.
        first: Where the part starts.
        last: Where the part ends. The part gets at least one pixel.
        pixels: The number of pixels of the whole interval.
    """
    start = min(round((first - low) / (high - low) * pixels), pixels - 1)
    stop = max(round((last - low) / (high - low) * pixels), start + 1)
    return start, stop


def border_colour(image: Image.Image) -> tuple[int, ...]:
    """Return the median of each channel over the pixels of an image's border."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)  # [H, W, C]
    sides = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return tuple(int(value) for value in np.median(np.concatenate(sides), axis=0))
