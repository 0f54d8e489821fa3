"""The preprocessing: how images are prepared for a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Fit = Literal["crop", "pad", "squash"]
"""How an image is fitted into the network's input."""

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""The resamplings that images can be prepared with; every version of Pillow has them."""

ValueRange = int | tuple[float, float] | None
"""The values that become black and white; see :class:`Preprocessing`."""


MAX_PIXELS = 100_000_000
"""The default of ``data.max_pixels``. Decoding so many pixels takes up to 2 GB and 10 seconds."""

PILLOWS_LIMIT = 178_956_970
"""The number of pixels above which Pillow itself refuses an image."""


@dataclass(frozen=True)
class Preprocessing:
    """The preparation of images for a backbone.

    Attributes:
        mean: The mean of each channel, for pixel values in [0, 1].
        std: The standard deviation of each channel, for pixel values in [0, 1].
        size: Height and width in pixels.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        crop_pct: For evaluation with the fit ``crop``: the side of the centre crop, as a share of
            the resized shorter side.
        fit: How an image of another shape is fitted into ``size``. ``crop`` keeps the centre,
            ``pad`` adds margins in the median colour of the image's border, ``squash`` changes the
            aspect ratio.
        value_range: The pixel values that become black and white, for images of more than 8 bits
            per channel. None: 0 and the largest 16-bit value. A number of bits, such as 12: 0 and
            4095; larger values are refused. (low, high): values outside become black or white.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: tuple[int, int] = (224, 224)
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    fit: Fit = "crop"
    value_range: int | tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        """The number of image channels."""
        return len(self.mean)

    def fitted_as(self, other: Preprocessing) -> Preprocessing:
        """Return this preparation with the ``fit`` and the ``value_range`` of ``other``."""
        return replace(self, fit=other.fit, value_range=other.value_range)
