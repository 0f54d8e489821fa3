"""Geometry: how an image of any shape becomes the network's input.

The three ways have the names that the field gives them: ``crop`` keeps the centre, ``pad`` adds a
border, ``squash`` changes the aspect ratio.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""


class Region(NamedTuple):
    """A part of an image in pixels, which may extend beyond its border."""

    left: float
    top: float
    right: float
    bottom: float


def kept_by_crop(size: Size, target: Size) -> float:
    """Return the share of an image's area within the largest centred box of the target's shape.

    Args:
        size: Width and height of the image.
        target: Width and height of the network's input.
    """
    (width, height), (to_width, to_height) = size, target
    wide, tall = width * to_height, height * to_width
    return min(wide, tall) / max(wide, tall)


def centre_crop(size: Size, target: Size, crop_pct: float) -> Region:
    """Return the part that a resize of the shorter side and a centre crop keep.

    Args:
        size: Width and height of the image.
        target: Width and height of the network's input.
        crop_pct: The crop's share of the resized shorter side.
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
    """Return the smallest region of the target's shape around a part, with the same centre."""
    width, height = part.right - part.left, part.bottom - part.top
    more_w = max(height * target[0] / target[1] - width, 0) / 2
    more_h = max(width * target[1] / target[0] - height, 0) / 2
    return Region(part.left - more_w, part.top - more_h, part.right + more_w, part.bottom + more_h)


def resampled(
    image: Image.Image, region: Region, target: Size, resample: Image.Resampling
) -> Image.Image:
    """Return a region of an image at the target's size.

    What lies beyond the image gets the median colour of its border, which is usually the
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
    """Return the pixels, at least one, of the part from ``first`` to ``last`` of an interval."""
    start = min(round((first - low) / (high - low) * pixels), pixels - 1)
    stop = max(round((last - low) / (high - low) * pixels), start + 1)
    return start, stop


def border_colour(image: Image.Image) -> tuple[int, ...]:
    """Return the median of each channel around the border."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)  # [H, W, C]
    sides = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return tuple(int(value) for value in np.median(np.concatenate(sides), axis=0))
