"""The places of all parts of a contact sheet's PNG, to the pixel."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siamkit.report.sheet.model import Group, Picture, Row, Sheet
from siamkit.report.sheet.png import _cut, _font, draw_png

INK, QUIET = "#171b21", "#59626f"
LETTERS = {
    (255, 255, 255): ".", (0x22, 0x68, 0xB0): "r", (0xC2, 0x57, 0x0A): "w", (0xDF, 0xE3, 0xE8): "e",
    (1, 2, 3): "#",
}  # fmt: skip


def picture(tone: Any = "plain", size: tuple[int, int] = (20, 14), caption: str = "") -> Picture:
    return Picture(Image.new("RGB", (20, 14), (1, 2, 3)), size, caption, tone)


def sheet(*rows: Row, **more: Any) -> Sheet:
    return Sheet("kind", "title", "lead", [("a", "b")], [Group("group", "note", rows)], **more)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The texts that are drawn, instead of their letters: place, text, size and colour."""
    found: list[tuple[Any, ...]] = []

    def text(pen: Any, place: tuple[int, int], line: str, *, fill: str, font: Any) -> None:
        found.append((place, line, font.size, fill))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


def test_texts_have_their_places_sizes_and_colours(texts: list[Any]) -> None:
    first = Row("one", "some", [picture(caption="p q"), picture(size=(40, 28), caption="second")])
    image = draw_png(sheet(first, Row("two", "", [picture()]), notices=["look"]))
    assert texts == [
        ((24, 24), "kind", 12, QUIET),
        ((24, 40), "title", 24, INK),
        ((24, 74), "lead", 14, QUIET),
        ((24, 94), "a: b", 14, QUIET),
        ((24, 114), "notice: look", 14, INK),
        ((24, 158), "group", 18, INK),
        ((24, 186), "note", 14, QUIET),
        ((24, 216), "one", 14, INK),
        ((24, 236), "some", 12, QUIET),
        ((27, 276), "p q", 12, QUIET),
        ((63, 290), "second", 12, QUIET),
        ((24, 316), "two", 14, INK),
    ]
    assert image.size == (768, 384)


def test_the_width_is_that_of_the_widest_row(texts: list[Any]) -> None:
    wide = [picture(size=(300, 14)) for _ in range(3)]
    assert draw_png(sheet(Row("", "", [picture()]), Row("", "", wide))).width == 3 * 306 + 20 + 48
    assert draw_png(sheet()).width == 720 + 48


def letters(image: Image.Image, left: int, top: int, width: int, height: int) -> list[str]:
    pixels: NDArray[np.uint8] = np.asarray(image)[top : top + height, left : left + width]
    return ["".join(LETTERS[tuple(pixel.tolist())] for pixel in row) for row in pixels]


def runs(line: str) -> str:
    """Return a line with repeats counted: ``aab`` is ``2a1b``."""
    return "".join(f"{len(list(same))}{letter}" for letter, same in groupby(line))


def parts(lines: list[str]) -> list[str]:
    return [f"{len(list(same))}x {line}" for line, same in groupby(map(runs, lines))]


@pytest.mark.parametrize(
    ("tone", "lines"),
    [
        ("plain", ["5x 30.", "1x 4.22e4.", "14x 4.1e20#1e4.", "1x 4.22e4.", "5x 30."]),
        ("right", ["3x 30.", "3x 2.26r2.", "14x 2.3r20#3r2.", "3x 2.26r2.", "3x 30."]),
        ("wrong", ["3x 30.", "3x 2.6w6.6w5.3w2.", "3x 2.3w20#3w2.", "6x 5.20#5.",
                   "5x 2.3w20#3w2.", "1x 2.6w6.6w5.3w2.", "2x 2.6w6.6w6.2w2.", "3x 30."]),
    ],
)  # fmt: skip
def test_a_frame_tells_right_from_wrong_by_its_dashes(
    tone: str, lines: list[str], texts: list[Any]
) -> None:
    image = draw_png(sheet(Row("", "", [picture(tone)])))
    assert parts(letters(image, 22, 195, 30, 26)) == lines
    assert image.height == 195 + 49


def test_a_picture_is_drawn_at_its_size(texts: list[Any]) -> None:
    enlarged = letters(draw_png(sheet(Row("", "", [picture(size=(40, 28))]))), 22, 195, 50, 40)
    assert parts(enlarged)[2] == "28x 4.1e40#1e4."
    reduced = letters(draw_png(sheet(Row("", "", [picture(size=(10, 7))]))), 22, 195, 20, 20)
    assert parts(reduced)[2] == "7x 4.1e10#1e4."


def test_pictures_of_one_column_begin_at_the_same_place(texts: list[Any]) -> None:
    rows = [Row("", "", [picture(size=(w, 14)), picture(caption="x")]) for w in (20, 60)]
    draw_png(sheet(*rows))
    assert [place[0] for place, line, *_ in texts if line == "x"] == [24 + 66 + 10 + 3] * 2


def test_a_line_is_cut_where_the_width_ends() -> None:
    font = _font(12)
    assert list(_cut("abc", font, round(font.getlength("abc")) + 1)) == ["abc"]
    line = "n" * 25
    cut = list(_cut(line, font, int(font.getlength("n" * 10)) + 1))
    assert [len(part) for part in cut] == [10, 10, 5] and "".join(cut) == line
    assert list(_cut("nnn", font, 1)) == ["n", "n", "n"], "at least a letter"
    assert list(_cut("nn", font, 1)) == ["n", "n"]
    assert list(_cut("nnnnn", font, int(font.getlength("nn")) + 1)) == ["nn", "nn", "n"]


def test_a_text_fills_the_width_of_the_sheet(texts: list[Any]) -> None:
    words = "word " * 150
    draw_png(Sheet("", "", words, [], []))
    widths = [_font(14).getlength(line) for _, line, *_ in texts]
    assert len(widths) > 3 and all(600 < width <= 720 for width in widths[:-1])
    assert " ".join(line for _, line, *_ in texts).split() == words.split()


def test_a_caption_stays_within_its_column(texts: list[Any]) -> None:
    draw_png(sheet(Row("", "", [picture(caption="iiiiiiiiiiiiiiii WWWWWWWW\n\nend")])))
    lines = [(place, line) for place, line, *_ in texts][6:]
    assert len(lines) > 3 and all(_font(12).getlength(line) <= 26 for _, line in lines)
    assert [place for place, _ in lines] == [(27, 220 + 16 * n) for n in range(len(lines))]
    assert lines[-1][1] == "end"


def test_a_caption_below_a_picture_of_one_pixel_has_a_letter_per_line(texts: list[Any]) -> None:
    draw_png(sheet(Row("", "", [picture(size=(1, 1), caption="WM")])))
    assert [line for _, line, *_ in texts][6:] == ["W", "M"]
