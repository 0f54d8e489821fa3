"""Draws a contact sheet as one image."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from siamkit.report.sheet.model import Group, Picture, Row, Sheet, fitted

_MARGIN, _GAP, _FRAME = 24, 10, 3
_INK, _QUIET, _PAPER, _RAISED = "#171b21", "#59626f", "#ffffff", "#f6f7f9"
_TONES = {"plain": None, "right": "#2268b0", "wrong": "#c2570a"}
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_LEAST_WIDTH = 720
_DASH = 6


@dataclass(frozen=True)
class _Style:
    size: int
    colour: str
    leading: int


_TITLE, _HEADING = _Style(24, _INK, 34), _Style(18, _INK, 28)
_NAME, _TEXT, _CAPTION = _Style(14, _INK, 20), _Style(14, _QUIET, 20), _Style(12, _QUIET, 16)


def draw_png(sheet: Sheet) -> Image.Image:
    """Return the sheet as an image in RGB. Its width is that of the widest row."""
    widths = [_columns(group) for group in sheet.groups]
    rows = [sum(columns) + _GAP * (len(columns) - 1) for columns in widths]
    width = max([_LEAST_WIDTH, *rows]) + 2 * _MARGIN
    canvas = _Canvas(width)
    canvas.text(sheet.kind, _CAPTION)
    canvas.text(sheet.title, _TITLE)
    canvas.text(sheet.lead, _TEXT)
    for name, value in sheet.about:
        canvas.text(f"{name}: {value}", _TEXT)
    for notice in sheet.notices:
        canvas.text(f"notice: {notice}", _NAME)
    for group, columns in zip(sheet.groups, widths, strict=True):
        canvas.space(_MARGIN)
        canvas.text(group.title, _HEADING)
        canvas.text(group.note, _TEXT)
        for row in group.rows:
            canvas.space(_GAP)
            canvas.row(row, columns)
    return canvas.image()


def _columns(group: Group) -> list[int]:
    """Return the width of each column of a group: that of its widest picture, with its frame."""
    most = max((len(row.pictures) for row in group.rows), default=0)
    return [
        max(row.pictures[at].size[0] for row in group.rows if at < len(row.pictures)) + 2 * _FRAME
        for at in range(most)
    ]


class _Canvas:
    """Collects what to draw from top to bottom, so that the height need not be known before."""

    def __init__(self, width: int) -> None:
        self._width, self._y = width, _MARGIN
        self._texts: list[tuple[int, int, str, _Style]] = []
        self._pictures: list[tuple[int, int, Picture]] = []

    def space(self, pixels: int) -> None:
        self._y += pixels

    def text(self, text: str, style: _Style) -> None:
        for line in _wrapped(text, style, self._width - 2 * _MARGIN):
            self._texts.append((_MARGIN, self._y, line, style))
            self._y += style.leading

    def row(self, row: Row, columns: Sequence[int]) -> None:
        self.text(row.title, _NAME)
        self.text(row.note, _CAPTION)
        self.space(2)
        x, bottom = _MARGIN, self._y
        for picture, column in zip(row.pictures, columns, strict=False):
            self._pictures.append((x, self._y, picture))
            y = self._y + picture.size[1] + 2 * _FRAME + 2
            for line in _wrapped(picture.caption, _CAPTION, column):
                self._texts.append((x + _FRAME, y, line, _CAPTION))
                y += _CAPTION.leading
            x, bottom = x + column + _GAP, max(bottom, y)
        self._y = bottom

    def image(self) -> Image.Image:
        image = Image.new("RGB", (self._width, self._y + _MARGIN), _PAPER)
        pen = ImageDraw.Draw(image)
        for x, y, picture in self._pictures:
            _paste(image, pen, x, y, picture)
        for x, y, line, style in self._texts:
            pen.text((x, y), line, fill=style.colour, font=_font(style.size))
        return image


def _paste(image: Image.Image, pen: ImageDraw.ImageDraw, x: int, y: int, picture: Picture) -> None:
    width, height = picture.size
    pixels = fitted(picture)
    if pixels.size != picture.size:
        pixels = pixels.resize(picture.size, Image.Resampling.NEAREST)
    image.paste(pixels, (x + _FRAME, y + _FRAME))
    right, bottom = x + width + 2 * _FRAME - 1, y + height + 2 * _FRAME - 1
    colour = _TONES[picture.tone]
    if colour is None:  # so that a white image has an edge
        pen.rectangle((x + 2, y + 2, right - 2, bottom - 2), outline="#dfe3e8", width=1)
    elif picture.tone == "right":
        pen.rectangle((x, y, right, bottom), outline=colour, width=_FRAME)
    else:  # dashed, so that colour alone does not tell
        for at in range(x, right, 2 * _DASH):
            for edge in (y, bottom - _FRAME + 1):
                end = min(at + _DASH - 1, right)
                pen.rectangle((at, edge, end, edge + _FRAME - 1), fill=colour)
        for at in range(y, bottom, 2 * _DASH):
            for edge in (x, right - _FRAME + 1):
                end = min(at + _DASH - 1, bottom)
                pen.rectangle((edge, at, edge + _FRAME - 1, end), fill=colour)


def _wrapped(text: str, style: _Style, width: int) -> Iterator[str]:
    """Yield the lines of a text, none longer than ``width`` pixels."""
    font = _font(style.size)
    for paragraph in text.splitlines():
        letters = max(int(width / font.getlength("n")), 1)
        for line in textwrap.wrap(paragraph, letters):
            yield from _cut(line, font, width)


def _cut(line: str, font: _Font, width: int) -> Iterator[str]:
    while line:
        ends = range(len(line), 1, -1)
        at = next((end for end in ends if font.getlength(line[:end]) <= width), 1)
        yield line[:at]
        line = line[at:]


@functools.cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)
