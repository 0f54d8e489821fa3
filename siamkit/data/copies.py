"""Copies: what saving an image again does to it, to see how much of that a network notices."""

from __future__ import annotations

import io

from PIL import Image

_SCALE, _QUALITY = 0.9, 75


def lossy_copy(image: Image.Image) -> Image.Image:
    """Return an image as it is after it was scaled down by a tenth and compressed.

    Args:
        image: A decoded image, of mode L, LA, RGB or RGBA.
    """
    size = (max(round(_SCALE * image.width), 1), max(round(_SCALE * image.height), 1))
    # WebP compresses like JPEG, and keeps an alpha channel.
    small = image.convert("RGBA" if image.mode.endswith("A") else "RGB")
    small = small.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=_QUALITY)
    with Image.open(stream) as copy:
        # Without an alpha value below 255, the file has no alpha channel.
        return copy.convert(image.mode)
