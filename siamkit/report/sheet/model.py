"""The model of a contact sheet: groups of rows of pictures, with texts but without a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

SIDE = 128
"""The usual side of a picture, in pixels."""

_LONGEST = 3 * SIDE

Tone = Literal["plain", "right", "wrong"]
"""The frame of a picture: none, solid and blue, or dashed and orange."""


@dataclass(frozen=True)
class Picture:
    """A picture of a sheet.

    Attributes:
        image: The pixels, in RGB.
        size: The width and height at which the picture is drawn.
        caption: The text below the picture.
        tone: The frame.
    """

    image: Image.Image
    size: tuple[int, int]
    caption: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Row:
    """Pictures side by side below a line of text."""

    title: str
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Group:
    """Rows with a heading. The pictures at the same place of each row stand in one column."""

    title: str
    note: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet.

    Attributes:
        kind: The command that makes the sheet, such as ``siamkit data show``.
        title: The heading.
        lead: The text below the heading.
        about: Facts, as pairs of a name and a value.
        groups: The pictures.
        notices: Notices for the reader.
    """

    kind: str
    title: str
    lead: str
    about: Sequence[tuple[str, str]]
    groups: Sequence[Group]
    notices: Sequence[str] = field(default_factory=tuple)


def at_side(image: Image.Image, caption: str = "", tone: Tone = "plain") -> Picture:
    """Return a view of a network as a picture whose longer side is :data:`SIDE`."""
    scale = SIDE / max(image.size)
    return Picture(image, _scaled(image.size, scale), caption, tone)


def in_its_shape(image: Image.Image, caption: str = "", tone: Tone = "plain") -> Picture:
    """Return an image of any shape as a picture that has the area of a square of :data:`SIDE`.

    So a long signature is not a thin line. A very long one has a smaller area, since no side is
    longer than three times :data:`SIDE`.
    """
    width, height = image.size
    scale = min(SIDE / (width * height) ** 0.5, _LONGEST / max(width, height))
    return Picture(image, _scaled(image.size, scale), caption, tone)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    width, height = size
    return max(round(width * scale), 1), max(round(height * scale), 1)


def fitted(picture: Picture, most: float = 1.0) -> Image.Image:
    """Return the pixels of a picture at ``most`` times its drawn size, or at their own if smaller.

    Pixels are never blended to enlarge an image, so a small image shows the pixels that it has.
    """
    width, height = (round(most * side) for side in picture.size)
    if picture.image.width <= width and picture.image.height <= height:
        return picture.image
    return picture.image.resize((width, height), Image.Resampling.LANCZOS)
