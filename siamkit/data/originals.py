"""Originals: images as their files show them, to look at beside what a network gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from siamkit.data.images import Sample
from siamkit.portable.decode import Decoding, opened, with_decoded
from siamkit.portable.depth import is_deep_grey

_PIXELS = 1 << 16
"""Larger images are reduced: a sheet holds hundreds, and a photograph takes 40 MB. This is what a
square of 128 pixels takes on a screen of double density."""


@dataclass(frozen=True)
class Original:
    """An image as its file shows it.

    Attributes:
        image: The pixels, in RGB, upright, reduced to at most 65,536 pixels.
        size: The width and height of the image before that.
        values: The smallest and the largest value of a grey image of more than 8 bits, drawn as
            black and white; None for other images.
    """

    image: Image.Image
    size: tuple[int, int]
    values: tuple[float, float] | None = None


def original(sample: Sample, how: Decoding) -> Original:
    """Return an image as its file shows it, whatever the network's channels and range are.

    Args:
        sample: The image.
        how: How the network's images are decoded.

    Raises:
        DataError: The image cannot be read.
    """
    how = replace(how, channels=3, least=None)
    values = _values(sample, how)
    if values is not None:
        low, high = values
        # A range has two ends, even for an image of one value.
        how = replace(how, value_range=(low, high if high > low else low + 1))

    def reduced(image: Image.Image) -> Original:
        width, height = image.size
        scale = min((_PIXELS / (width * height)) ** 0.5, 1)
        # At once, not in steps, so that fine lines keep their grey.
        sides = max(int(scale * width), 1), max(int(scale * height), 1)
        small = image if scale == 1 else image.resize(sides, Image.Resampling.LANCZOS)
        return Original(small, (width, height), values)

    return with_decoded(sample.path, how, sample.box, reduced)


def _values(sample: Sample, how: Decoding) -> tuple[float, float] | None:
    with opened(sample.path, how) as image:
        if not is_deep_grey(image) or image.format == "PPM":
            return None
        image.load()
        low, high = image.getextrema()
        return float(low), float(high)  # type: ignore[arg-type]
