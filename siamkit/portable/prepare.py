"""The preparation: turns a decoded image into the numbers that a network takes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image

from ..errors import ConfigError
from .geometry import Region, centre_crop, padded, resampled
from .preprocessing import Interpolation, Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Preparer:
    """Prepares decoded images: fits them into the input, and normalises them.

    Args:
        preprocessing: How the network wants images to be prepared.

    Raises:
        ConfigError: The preprocessing names an unknown interpolation.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        height, width = preprocessing.size
        self.preprocessing, self._size = preprocessing, (width, height)
        self._resample = _resampling(preprocessing.interpolation)

    def __call__(self, image: Image.Image) -> Floats:
        """Return the input ``[C, H, W]`` (float32) for a decoded image."""
        return self.normalised(self.resized(image))

    def resized(self, image: Image.Image) -> Image.Image:
        """Return ``image`` as the network sees it: fitted into the input, but not yet normalised.

        With ``crop``, the result equals a resize followed by a crop, up to rounding, but only the
        pixels that remain are computed. So an image of 2 x 10,000 pixels does not grow to 300
        megapixels in between.
        """
        if self.preprocessing.fit == "crop":
            region = centre_crop(image.size, self._size, self.preprocessing.crop_pct)
            return resampled(image, region, self._size, self._resample)
        return self.fitted(image, Region(0, 0, *image.size))

    def fitted(self, image: Image.Image, part: Region) -> Image.Image:
        """Return a part of ``image`` at the input size, squashed or padded."""
        region = padded(part, self._size) if self.preprocessing.fit == "pad" else part
        return resampled(image, region, self._size, self._resample)

    def normalised(self, image: Image.Image) -> Floats:
        """Return the pixels of an image of 8 bits per channel as ``[C, H, W]``, normalised."""
        pixels = np.asarray(image).reshape(image.height, image.width, -1)  # [H, W, C]
        planes = np.empty((pixels.shape[2], image.height, image.width), np.float32)
        for channel, values in enumerate(self._values):
            np.take(values, pixels[..., channel], out=planes[channel])
        return planes

    @cached_property
    def _values(self) -> Floats:
        """The normalised value of each of the 256 values of a pixel, ``[C, 256]``."""
        # The operations and their order are torchvision's, in float32, so the bits are the same.
        shares = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
        mean = np.array(self.preprocessing.mean, np.float32)
        std = np.array(self.preprocessing.std, np.float32)
        values: Floats = (shares - mean[:, None]) / std[:, None]
        return values


def _resampling(name: str) -> Image.Resampling:
    if name not in get_args(Interpolation):
        raise ConfigError(
            "the backbone has an unknown interpolation",
            got=name,
            allowed=", ".join(get_args(Interpolation)),
        )
    return Image.Resampling[name.upper()]
