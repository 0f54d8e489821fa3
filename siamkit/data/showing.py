"""Images with their views, as a run would get them, to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from siamkit.config import RunConfig
from siamkit.data.images import Sample
from siamkit.data.originals import Original
from siamkit.data.telling import Choice
from siamkit.interfaces import Preprocessing


@dataclass(frozen=True)
class ShownImage:
    """A training image with its views.

    Attributes:
        sample: The image.
        label: The name of its class.
        choice: Why it is shown.
        original: The image as its file shows it.
        evaluation: The evaluation view, as the network gets it.
        training: Training views, as the network gets them in the first epochs.
    """

    sample: Sample
    label: str
    choice: Choice
    original: Original
    evaluation: Image.Image
    training: Sequence[Image.Image]


@dataclass(frozen=True)
class Showing:
    """Training images with their views, and how the run prepares them.

    Attributes:
        config: The config of the run, with the fit and the range that the data led to.
        preprocessing: The preparation of the images.
        images: The images.
        sizes: The number of images by split.
        how: How the data was split, as text.
        notices: Notices for the user.
    """

    config: RunConfig
    preprocessing: Preprocessing
    images: Sequence[ShownImage]
    sizes: Mapping[str, int]
    how: str
    notices: tuple[str, ...]


def picture(view: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """Return a view ``[C, H, W]`` as the image that it was before its values were normalised.

    An alpha channel is laid over white, as a viewer would show it.
    """
    mean, std = (np.array(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    values = np.clip((view.double().numpy() * std + mean) * 255, 0, 255).round()
    pixels = values.astype(np.uint8).transpose(1, 2, 0)  # [H, W, C]
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    if image.mode.endswith("A"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
