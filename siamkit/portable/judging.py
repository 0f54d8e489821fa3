"""The judge: says what a network's preparation loses of images, by their shapes and their depths.

Training and the data check judge each split. The commands that use a trained network judge the
images that they are given, which may have other shapes and depths than those it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import DataError
from ..spelling import setting
from ..words import plural
from .decode import Decoding
from .depth import DEEP_GREY, is_deep, is_deep_grey, share_outside, white_of
from .geometry import Box, Boxed, Size, kept_by_crop
from .looking import Facts, Values, look, values_of
from .pictures import picture_of
from .preprocessing import Preprocessing

CONSIDERABLE = 0.35
"""A crop is worth a notice if an image's shape costs it more than this share of its area. The usual
shapes of photographs cost less: 3:2 costs a third, and rounding to whole pixels a little more."""

DARK = 0.25
"""Images of more than 8 bits are dark if no value is above this share of the range."""

OUTSIDE = 0.9
"""Above this share of pixels outside of black and white, the range is worth a notice. Windows that
are set on purpose leave out much: a CT's window for the brain more than half of the pixels."""

_HEADERS = 500  # images whose headers are read
_PIXELS = 16  # grey images of more than 8 bits whose pixels are read

T = TypeVar("T")


class Prepares(Protocol):
    """A network that says how it decodes and prepares images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How decoded images are prepared."""

    @property
    def decoding(self) -> Decoding:
        """How image files are decoded."""


@dataclass(frozen=True)
class Looks:
    """The shapes and depths of a set of images.

    Attributes:
        sizes: The width and height of each image, or of its box.
        colour: The number of colour images of more than 8 bits per channel.
        grey: The number of grey images of more than 8 bits.
        values: The values of the grey images that were read; None if they are unknown.
        read: The number of grey images that were read.
    """

    sizes: Sequence[Size]
    colour: int = 0
    grey: int = 0
    values: Values | None = None
    read: int = 0


def judge(looks: Looks, images: Preprocessing, noun: str = "image") -> list[str]:
    """Return notices about what a preparation loses of a set of images.

    Args:
        looks: The shapes and depths of the images.
        images: The preparation.
        noun: The name of one of the images in the notices.
    """
    return [*_on_shape(looks, images, noun), *_on_depth(looks, images, noun)]


def judge_samples(
    samples: Iterable[Boxed],
    facts: Mapping[Path, Facts],
    images: Preprocessing,
    how: Decoding,
    noun: str = "image",
) -> list[str]:
    """Return the notices of :func:`judge` on images whose headers were read.

    Args:
        samples: The file of each image, and its box.
        facts: The facts about each file. Files that cannot be read are left out.
        images: The preparation.
        how: How the files are decoded. Of grey images of more than 8 bits, a sample is decoded.
        noun: The name of one of the images in the notices.
    """
    known = [(facts[path], box) for path, box in samples if facts[path].problem is None]
    deep = [found for found, _ in known if found.deep]
    grey = [found.path for found in deep if found.mode in DEEP_GREY]
    values: Values | None = None
    read = _some(grey, _PIXELS)
    if read:
        with suppress(DataError):  # whoever uses the image raises the same error
            values = values_of(read, how)
    sizes = [size_of(found, box) for found, box in known]
    looks = Looks(sizes, len(deep) - len(grey), len(grey), values, len(read))
    return judge(looks, images, noun)


def size_of(found: Facts, box: Box | None) -> Size:
    """Return the width and height of an image, or of a box in it."""
    if box is None:
        return found.size
    return max(int(box[2] - box[0]), 1), max(int(box[3] - box[1]), 1)


def judge_files(paths: Sequence[Path], model: Prepares) -> list[str]:
    """Return the notices of :func:`judge` on files that a network is about to embed.

    The headers of up to 500 files are read. Files that cannot be read are left out.
    """
    some = _some(paths, _HEADERS)
    facts = {found.path: found for found in look(some, model.decoding)}
    samples, noun = [(path, None) for path in some], _noun(len(some), len(paths))
    return judge_samples(samples, facts, model.preprocessing, model.decoding, noun)


def judge_pictures(images: Sequence[Any], model: Prepares) -> list[str]:
    """Return the notices of :func:`judge` on up to 500 images in memory; see :func:`.picture_of`.

    Images that cannot be used are left out.
    """
    sizes: list[Size] = []
    colour = 0
    ends: list[float] = []
    outside: list[float] = []
    for image in _some(images, _HEADERS):
        with suppress(DataError):  # whoever uses the image raises the same error
            picture = picture_of(image, "image")
            sizes.append(picture.size)
            if is_deep_grey(picture):
                ends.append(float(picture.getextrema()[1]))  # type: ignore[arg-type]
                outside.append(share_outside(picture, model.preprocessing.value_range))
            elif is_deep(picture):
                colour += 1
    values = Values(max(ends), sum(outside) / len(outside)) if ends else None
    looks = Looks(sizes, colour, len(ends), values, len(ends))
    return judge(looks, model.preprocessing, _noun(len(sizes), len(images)))


def _noun(some: int, every: int) -> str:
    return "image" if some == every else "sampled image"


def _on_shape(looks: Looks, images: Preprocessing, noun: str) -> list[str]:
    height, width = images.size
    kept = [kept_by_crop(size, (width, height)) for size in looks.sizes]
    cut = [share for share in kept if 1 - share > CONSIDERABLE]
    if images.fit != "crop" or not cut:
        return []
    mean = sum(cut) / len(cut)
    lost, with_margin = 1 - mean, 1 - mean * images.crop_pct**2
    also = f", and its margin {with_margin - lost:.0%}" if images.crop_pct < 1 else ""
    ways = " or ".join(setting("data.fit", fit) for fit in ("pad", "squash"))
    return [
        f"the centre crop leaves out {lost:.0%} of the area of {len(cut)} of "
        f"{plural(len(kept), noun)}{also}; training with {ways} keeps all"
    ]


def _on_depth(looks: Looks, images: Preprocessing, noun: str) -> list[str]:
    notices = []
    if looks.colour:
        has = plural(looks.colour, f"colour {noun} has", f"colour {noun}s have")
        notices.append(
            f"{has} 16 bits per channel, of which the upper 8 are used; convert images whose "
            "values are small to 8 bits"
        )
    if looks.values is None:
        return notices
    low, white = white_of(images.value_range)
    read = "" if looks.read == looks.grey else f" ({looks.read} of them were read)"
    of = f"{plural(looks.grey, noun)} of more than 8 bits"
    if looks.values.largest <= low + (white - low) * DARK:
        notices.append(
            f"the values of {of} end at {looks.values.largest:g}{read}, but {white:g} is white, so "
            "the network sees them dark; convert them to 8 bits, or train with another "
            f"{setting('data.range')}"
        )
    elif looks.values.outside > OUTSIDE:
        notices.append(
            f"{looks.values.outside:.0%} of the pixels of {of}{read} are below {low:g}, which is "
            f"black, or above {white:g}, which is white, so the network sees hardly anything of "
            f"them; train with another {setting('data.range')}"
        )
    return notices


def _some(items: Sequence[T], most: int) -> list[T]:
    """Return all items, or as many as allowed, evenly spread over the sequence."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
