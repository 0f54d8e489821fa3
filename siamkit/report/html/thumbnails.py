"""Thumbnails that show images as the network sees them, as base64 text for the page.

The pixels are encoded anew, so a report contains nothing else of a file: no EXIF data, no location,
no colour profile.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from siamkit.data.images import Sample
from siamkit.data.views import EvalView
from siamkit.errors import DataError
from siamkit.interfaces import Preprocessing
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.preprocessing import MAX_PIXELS

LARGE, SMALL = 96, 56
BUDGET = 4_400_000
"""The largest total size of all thumbnails, in characters."""

_QUALITIES = (78, 60, 42, 25, 10)


def thumbnails(
    images: Mapping[int, Sample],
    sizes: Mapping[int, int],
    preprocessing: Preprocessing,
    max_pixels: int = MAX_PIXELS,
) -> dict[int, str | None]:
    """Return a small WebP of each image's evaluation view, in base64; None for unreadable files.

    All have the same quality: the highest at which they fit into :data:`BUDGET` together, or the
    lowest if none fits.

    Args:
        images: The images by number.
        sizes: The longest side of each thumbnail in pixels, by number.
        preprocessing: How the network's images are prepared.
        max_pixels: The most pixels that an image may have; larger images count as unreadable.
    """
    views = {size: _view(preprocessing, size) for size in set(sizes.values())}
    small = {n: _small(image, views[sizes[n]], max_pixels) for n, image in images.items()}
    encoded: dict[int, str | None] = {}
    for quality in _QUALITIES:
        encoded = {
            n: None if image is None else _encoded(image, quality) for n, image in small.items()
        }
        if sum(len(text) for text in encoded.values() if text) <= BUDGET:
            break
    return encoded


def _view(preprocessing: Preprocessing, size: int) -> EvalView:
    """Return the evaluation view at ``size`` pixels per longer side."""
    height, width = preprocessing.size
    scale = size / max(height, width)
    small = max(round(height * scale), 1), max(round(width * scale), 1)
    return EvalView(replace(preprocessing, size=small, interpolation="bicubic"))


def _small(sample: Sample, view: EvalView, max_pixels: int) -> Image.Image | None:
    how = replace(Decoding.of(view.preprocessing, max_pixels), channels=3)
    try:
        image = view.resize(decode(sample.path, how, sample.box))
    except DataError:
        return None
    # A new image has no metadata.
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    return clean


def _encoded(image: Image.Image, quality: int) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return base64.b64encode(stream.getvalue()).decode("ascii")
