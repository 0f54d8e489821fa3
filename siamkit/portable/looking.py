"""The check of image files: reads their headers, or decodes their pixels, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ..errors import DataError
from .decode import (
    REPAIR,
    RGB,
    Decoding,
    opened,
    orientation_of,
    outside,
    pixels_of,
    quiet,
    read_pixels,
)
from .depth import is_deep, share_outside, to_eight_bit
from .geometry import Box
from .pixel_budget import Claim, decoded_at_once
from .threads import in_threads

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Facts:
    """The result of checking an image file.

    Attributes:
        path: The file.
        problem: The reason why the file cannot be used; None if there is none.
        format: The file's format, such as ``JPEG``.
        mode: Pillow's name for the type of the pixels, such as ``RGB``.
        size: The image's width and height, before the image is turned upright.
        oriented: Whether the image's orientation could be read. If not, the image counts as
            upright. Always True if only headers are read.
        deep: Whether the image has more than 8 bits per channel, and the file does not state which
            value is white.
        hint: The next step for a file that cannot be used, unless it is to repair the file.
        outside: The boxes that end beyond the image, each with its problem.
    """

    path: Path
    problem: str | None
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    oriented: bool = True
    deep: bool = False
    hint: str | None = None
    outside: tuple[tuple[Box, str], ...] = ()

    def problem_of(self, box: Box | None) -> str | None:
        """Return the reason why a box, or the whole file, cannot be used; None if it can."""
        return self.problem or next((why for other, why in self.outside if other == box), None)


def look(
    paths: Sequence[Path],
    how: Decoding = RGB,
    *,
    boxes: Mapping[Path, Sequence[Box]] | None = None,
    full: bool = False,
) -> Iterator[Facts]:
    """Yield the facts of each image file, in order.

    Reading only headers is cheap (about 0.1 ms per file) and finds the most common problems: empty
    files, other formats under an image's name, and decompression bombs.

    Args:
        paths: The files.
        how: How to decode the files.
        boxes: The boxes of some of the files. They are compared with the upright image.
        full: Whether to decode the pixels as :func:`.decode` does, which finds every problem.
    """
    boxes = boxes or {}

    def facts(path: Path, claim: Claim) -> Facts:
        inside = boxes.get(path, ())
        try:
            with opened(path, how) as image:
                form, mode, size, oriented = str(image.format), image.mode, image.size, True
                deep = is_deep(image)
                if inside and not full:
                    whole = _upright_size(image, claim)
            if full:
                # The boxes are in pixels of the whole image.
                at = replace(how, least=None) if inside else how
                whole, oriented = read_pixels(path, at, None, claim, partial(checked, path))
            beyond = ((box, outside(box, whole)) for box in inside)
            told = tuple((box, problem) for box, problem in beyond if problem)
            return Facts(path, None, form, mode, size, oriented, deep, outside=told)
        except DataError as error:
            return Facts(path, error.what, hint=None if error.hint == REPAIR else error.hint)

    def checked(path: Path, image: Image.Image) -> tuple[tuple[int, int], bool]:
        pixels, oriented = pixels_of(image, how, None, str(path))
        return pixels.size, oriented

    with quiet():
        yield from in_threads(_sharing(facts), paths)


@dataclass(frozen=True)
class Values:
    """The pixel values of grey images of more than 8 bits.

    Attributes:
        largest: The largest value.
        outside: The share of the pixels whose values are below black or above white, as the mean of
            the images.
    """

    largest: float
    outside: float


def values_of(paths: Sequence[Path], how: Decoding = RGB) -> Values:
    """Return the pixel values of grey images of more than 8 bits.

    Args:
        paths: The files, at least one.
        how: How to decode the files.

    Raises:
        DataError: An image cannot be read, or its values do not suit the range.
    """

    def values(path: Path, claim: Claim) -> Values:
        with opened(path, how) as image:
            claim(image)
            image.load()
            to_eight_bit(image, how.value_range, str(path))
            largest = float(image.getextrema()[1])  # type: ignore[arg-type]
            return Values(largest, share_outside(image, how.value_range))

    with quiet():
        found = list(in_threads(_sharing(values), paths))
    return Values(max(v.largest for v in found), sum(v.outside for v in found) / len(found))


def unreadable(
    paths: Sequence[Path], how: Decoding = RGB, *, full: bool = False
) -> list[tuple[Path, str]]:
    """Return each file that is not a usable image, with its problem; see :func:`look`."""
    looks = look(paths, how, full=full)
    return [(facts.path, facts.problem) for facts in looks if facts.problem]


def _sharing(work: Callable[[Path, Claim], R]) -> Callable[[Path], R]:
    return lambda path: decoded_at_once.share(partial(work, path))


def _upright_size(image: Image.Image, claim: Claim) -> tuple[int, int]:
    if image.format == "PNG":
        claim(image)
        image.load()  # in a PNG, the EXIF data may follow the pixels
    width, height = image.size
    # For a TIFF, Pillow's size is already that of the upright image.
    turned = image.format != "TIFF" and (orientation_of(image) or 1) > 4
    return (height, width) if turned else (width, height)
