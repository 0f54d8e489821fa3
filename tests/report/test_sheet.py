"""Contact sheets, drawn as PNG and as HTML."""

import base64
import io
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from siamkit.config import AugmentConfig
from siamkit.errors import ConfigError
from siamkit.report.sheet import model
from siamkit.report.sheet.model import SIDE, Group, Picture, Row, Sheet, at_side, in_its_shape
from siamkit.report.sheet.page import draw_page
from siamkit.report.sheet.png import draw_png
from siamkit.report.sheet.views import strengths_text
from siamkit.report.sheet.write import write_sheet

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def flat(colour, size=(SIDE, SIDE)):
    return Image.new("RGB", size, colour)


def sheet(*pictures, title="a class", note="", **more):
    rows = [Row(title, note, pictures)]
    return Sheet("siamkit data show", "Title", "Lead.", [("fit", "pad")],
                 [Group("Images", "", rows)], **more)  # fmt: skip


def embedded(page):
    data = re.search(r'<script type="application/json" id="thumbs">(.*?)</script>', page)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
        for text in json.loads(data[1]).values()
    ]


@pytest.mark.parametrize("size", [(10, 10), (400, 40), (40, 400), (5000, 5), (1, 1)])
def test_a_picture_keeps_its_shape_and_is_neither_a_speck_nor_a_line(size):
    width, height = in_its_shape(flat("red", size)).size
    assert max(width, height) <= 3 * SIDE
    if max(size) <= 9 * min(size):
        assert width * height == pytest.approx(SIDE**2, rel=0.03)
        assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert at_side(flat("red", (224, 112))).size == (SIDE, SIDE // 2)


def test_every_picture_of_a_png_is_drawn_in_its_colour_and_frame():
    colours = [(200, 0, 0), (0, 150, 0), (0, 0, 220)]
    tones = ["plain", "right", "wrong"]
    drawn = np.asarray(
        draw_png(sheet(*(Picture(flat(c), (SIDE, SIDE), "", t)
                         for c, t in zip(colours, tones, strict=True))))
    )  # fmt: skip
    for colour in colours:
        assert (drawn == colour).all(-1).sum() >= (SIDE - 8) ** 2
    assert (drawn == (0x22, 0x68, 0xB0)).all(-1).sum() > 4 * SIDE
    dashes = (drawn == (0xC2, 0x57, 0x0A)).all(-1).sum()
    assert SIDE < dashes < 10 * SIDE, "dashed, so not by colour alone"


def test_pictures_of_a_group_stand_in_columns():
    wide, narrow = Picture(flat("red", (300, 40)), (300, 40)), Picture(flat("red"), (40, 40))
    mark = Picture(flat((1, 2, 3)), (40, 40))
    rows = [Row("a", "", [wide, mark]), Row("b", "", [narrow, mark])]
    drawn = np.asarray(draw_png(Sheet("k", "t", "", [], [Group("g", "", rows)])))
    at = np.flatnonzero((drawn == (1, 2, 3)).all(-1).any(0))
    assert at[-1] - at[0] < 40, "both marks in one column"


def test_small_images_show_their_own_pixels_and_no_blends():
    pixels = np.random.default_rng(0).integers(0, 2, (4, 4, 1), dtype=np.uint8) * 255
    image = Image.fromarray(np.repeat(pixels, 3, 2))
    page = draw_page(sheet(in_its_shape(image)), NOW)
    assert np.array_equal(embedded(page)[0], np.asarray(image)) and 'class="enlarged"' in page
    drawn = np.asarray(draw_png(sheet(in_its_shape(image))))
    expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    left = 27  # the margin and the frame
    places = range(len(drawn) - SIDE)
    assert any(np.array_equal(drawn[y : y + SIDE, left : left + SIDE], expected) for y in places)


def test_a_page_has_every_picture_and_text_and_loads_nothing():
    pictures = [Picture(flat(c), (SIDE, SIDE), f"caption {c}") for c in ("red", "green")]
    page = draw_page(sheet(*pictures, note="a note", notices=["a notice"]), NOW)
    for text in ("a class", "a note", "a notice", "caption red", "caption green", "Lead."):
        assert text in page
    for found, colour in zip(embedded(page), [(255, 0, 0), (0, 128, 0)], strict=True):
        assert abs(found.astype(int) - colour).max() < 6
    assert "http:" not in page and "https:" not in page
    assert len(page) < 60_000 and 'id="library"' not in page, "no charts, so no plotting library"
    assert page.count("sha256-") == 1, "the policy allows one script"


def test_a_name_from_a_file_is_text_and_not_markup():
    evil = "<img src=x onerror=alert(1)>"
    page = draw_page(sheet(Picture(flat("red"), (SIDE, SIDE), evil), title=evil, note=evil), NOW)
    assert evil not in page and "&lt;img src=x" in page


def test_long_and_strange_names_fit_into_a_png():
    name = "x" * 4000 + " 漢字 \n\t" + "a b " * 200
    drawn = draw_png(sheet(Picture(flat("red"), (SIDE, SIDE), name), title=name, note=""))
    assert drawn.width < 900


def test_the_ending_of_the_file_chooses_the_form(tmp_path):
    page = write_sheet(sheet(at_side(flat("red"))), tmp_path / "a.HTML")
    assert page.read_text().startswith("<!doctype html>")
    with Image.open(write_sheet(sheet(at_side(flat("red"))), tmp_path / "a.png")) as image:
        assert image.format == "PNG"
    with pytest.raises(ConfigError, match=r"unknown ending, got '?.jpg'?.*\.html, \.png"):
        write_sheet(sheet(at_side(flat("red"))), tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match=r"none: there is no such folder"):
        write_sheet(sheet(at_side(flat("red"))), tmp_path / "none" / "a.png")
    with pytest.raises(ConfigError, match="is a folder"):
        write_sheet(sheet(at_side(flat("red"))), tmp_path)


def test_large_images_are_reduced():
    big = in_its_shape(flat("red", (4000, 3000)))
    assert model.fitted(big).size == big.size
    assert embedded(draw_page(sheet(big), NOW))[0].shape[1] == 2 * big.size[0]


@pytest.mark.parametrize("size", [(10, 30), (30, 10)])
def test_an_image_that_is_too_long_on_one_side_is_reduced(size):
    assert model.fitted(model.Picture(flat("red", size), (20, 20))).size == (20, 20)


def test_strengths_are_told_in_words():
    assert strengths_text(AugmentConfig(preset="marks")) == (
        "80 % to 100 % of the area, brightness ± 10 %, contrast ± 10 %, saturation ± 10 %"
    )
    text = strengths_text(AugmentConfig(preset="faces"))
    assert "rotated by up to 10°" in text and "50 % mirrored" in text and "10 % blurred" in text
    assert strengths_text(AugmentConfig(preset="none")).startswith("nothing")
    for key in AugmentConfig(preset="none").strengths:
        if not key.startswith("crop"):
            only = AugmentConfig.model_validate({"preset": "none", key: 0.25})
            assert "0.25" in strengths_text(only) or "25 %" in strengths_text(only), key
            assert "of the area" not in strengths_text(only)
