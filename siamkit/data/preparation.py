"""The preparation of a data set: how images are fitted into the input, and which value is white."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from siamkit.config import DataConfig
from siamkit.data.images import ImageSet
from siamkit.portable.decode import Decoding
from siamkit.portable.depth import DEEP_GREY
from siamkit.portable.geometry import kept_by_crop
from siamkit.portable.judging import judge_samples, size_of
from siamkit.portable.looking import Facts, values_of
from siamkit.portable.preprocessing import Fit, Preprocessing
from siamkit.spelling import setting
from siamkit.words import plural

ELONGATED = 0.6
"""An image is elongated if a centre crop keeps at most this share of its area. For a square input,
these are images with an aspect ratio of 5:3 or more."""

_NOUNS = {"train": "training image", "val": "validation image", "test": "test image"}

MANY = 0.05
"""Above this share of elongated images, ``data.fit: auto`` squashes images instead of cropping."""


@dataclass(frozen=True)
class Preparation:
    """How the images of a data set are prepared.

    Attributes:
        fit: How the images are fitted into the network's input.
        range: The values that become black and white in images of more than 8 bits per channel; see
            ``data.range``.
        elongated: The share of the images that are elongated.
        lost: The share of the area of elongated images that a centre crop leaves out.
        notices: Notices for the user.
    """

    fit: Fit
    range: Literal["full"] | int | tuple[float, float]
    elongated: float
    lost: float
    notices: tuple[str, ...]


def preparation(
    config: DataConfig,
    sets: Mapping[str, ImageSet],
    facts: Mapping[Path, Facts],
    own: Preprocessing,
) -> Preparation:
    """Return how the images of a data set are prepared.

    No pixels are read, except those of grey images of more than 8 bits.

    Args:
        config: The section ``data``.
        sets: The image sets. The training set decides the fit, and the images of all sets decide
            the range.
        facts: The facts about each file.
        own: The preparation that the backbone was pretrained with.

    Raises:
        DataError: An image cannot be read.
    """
    sizes = [size_of(facts[sample.path], sample.box) for sample in sets["train"].samples]
    height, width = own.size
    paths = {sample.path for images in sets.values() for sample in images.samples}
    deep = [found for path, found in facts.items() if found.deep and path in paths]
    kept = [kept_by_crop(size, (width, height)) for size in sizes]
    long = [share for share in kept if share <= ELONGATED]
    elongated = len(long) / max(len(kept), 1)
    lost = 1 - sum(long) / len(long) if long else 0.0
    fit = choose_fit(config.fit, own.fit, elongated)
    chosen, notices = _range(config, deep)
    if long and fit != "crop":
        notices = [_on_fit(config, fit, len(long), len(kept), lost), *notices]
    how = decoding_of(config.model_copy(update={"range": chosen}))
    images = replace(own, fit=fit, value_range=how.value_range)
    for part, some in sets.items():
        samples = [(sample.path, sample.box) for sample in some.samples]
        notices += judge_samples(samples, facts, images, how, _NOUNS[part])
    return Preparation(fit, chosen, elongated, lost, tuple(notices))


def choose_fit(wanted: Literal["auto"] | Fit, own: Fit, elongated: float) -> Fit:
    """Return how images are fitted.

    Args:
        wanted: The value of ``data.fit``.
        own: The fit that the backbone was pretrained with.
        elongated: The share of the images that are elongated.
    """
    if wanted != "auto":
        return wanted
    return "squash" if own == "crop" and elongated > MANY else own


CHECKED = 256
"""The pixels per side of a large JPEG that is checked. Its data is read to the end all the same."""


def decoding_of(data: DataConfig) -> Decoding:
    """Return how to decode images to check them, by the section ``data`` of a config."""
    return Decoding(data.in_chans, data.value_range, data.max_pixels, CHECKED)


def bits_for(value: float) -> int | None:
    """Return the least number of bits, from 9 to 15, that hold a value; None if 16 are needed."""
    bits = max(int(value).bit_length(), 9)
    return bits if bits < 16 else None


def _on_fit(config: DataConfig, fit: Fit, long: int, images: int, lost: float) -> str:
    which = f"{long} of {plural(images, 'training image')}"
    what = f"{which} {'is' if long == 1 else 'are'} elongated"
    how = "padded" if fit == "pad" else "squashed"
    why = f", because a centre crop would leave out {lost:.0%} of their area"
    return f"{what}: images are {how}{why if config.fit == 'auto' and fit == 'squash' else ''}"


def _range(
    config: DataConfig, deep: Sequence[Facts]
) -> tuple[Literal["full"] | int | tuple[float, float], list[str]]:
    grey = [facts.path for facts in deep if facts.mode in DEEP_GREY]
    if config.range != "auto" or not grey:
        return ("full" if config.range == "auto" else config.range), []
    largest = values_of(grey, decoding_of(config)).largest
    bits = bits_for(largest)
    if bits is None:
        return "full", []
    return bits, [
        f"the values of {plural(len(grey), 'image')} of 16 bits end at {largest:g}, so they are "
        f"read as {bits} bits: {2**bits - 1} is white ({setting('data.range')})"
    ]
