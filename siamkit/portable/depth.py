"""Depth: scales images of more than 8 bits per channel to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..spelling import setting
from .preprocessing import ValueRange

DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of one channel of more than 8 bits."""


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether an opened image has one channel of more than 8 bits."""
    return image.mode in DEEP_GREY


def is_deep(image: Image.Image) -> bool:
    """Return whether an image has more than 8 bits per channel and does not say what is white.

    A PGM file states its largest value, and Pillow scales the pixels by that value.
    """
    if image.format == "PPM":
        return False
    # For 16-bit colour images, Pillow keeps the upper 8 bits. Only the image's "tile" shows that.
    return is_deep_grey(image) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def require_range(image: Image.Image, value_range: ValueRange, where: str) -> None:
    """Check that black and white are defined for the type of an opened image's pixels.

    Raises:
        DataError: The image holds floats, and ``value_range`` is not a pair of numbers.
    """
    if image.mode == "F" and not isinstance(value_range, tuple):
        raise _no_range(where, "32-bit floats")


def white_of(value_range: ValueRange) -> tuple[float, float]:
    """Return the values that become black and white."""
    if isinstance(value_range, tuple):
        return value_range
    return 0, 2 ** (value_range or 16) - 1


def share_outside(image: Image.Image, value_range: ValueRange) -> float:
    """Return the share of a grey image's pixels whose values are below black or above white."""
    low, white = white_of(value_range)
    values = np.asarray(image)
    return float(((values < low) | (values > white)).mean())


def to_eight_bit(image: Image.Image, value_range: ValueRange, where: str) -> Image.Image:
    """Return a grey image of more than 8 bits as an image of 8 bits.

    The result has an alpha channel if the file declares one value to be transparent. Pillow's own
    conversion is not used, because it clips values at 255.

    Args:
        image: A loaded image for which :func:`is_deep_grey` holds.
        value_range: The values that become black and white.
        where: The name of the image in messages.

    Raises:
        DataError: The image has NaN or infinite values, or integers outside the range.
    """
    values = np.asarray(image)
    if isinstance(value_range, tuple):
        low, high = value_range
        if not np.isfinite(values).all():
            raise DataError("has pixels that are NaN or infinite", where=where)
        share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        scaled = Image.fromarray((share * 255 + 0.5).astype(np.uint8))
    else:
        bits = 16 if value_range is None or image.format == "PPM" else value_range
        white = 2**bits - 1
        largest = int(values.max())
        if values.min() < 0 or largest > 65535:
            raise _no_range(where, "32-bit integers", "[BLACK,WHITE]")
        if largest > white:
            raise DataError(
                f"has values that do not fit into the {bits} bits of the other images",
                where=where,
                got=largest,
                allowed=f"0 to {white}",
                hint=f"convert the file, or train with {setting('data.range', 'full')}",
            )
        scaled = Image.fromarray(
            ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
        )
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the value of transparent pixels, in the file's own scale
        scaled.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return scaled


def _no_range(where: str, what: str, ends: Any = (0, 1)) -> DataError:
    return DataError(
        f"the pixels are {what}, for which black and white are not defined",
        where=where,
        allowed="8 or 16 bits per channel",
        hint=f"state black and white with {setting('data.range', ends)}, or convert the file",
    )
