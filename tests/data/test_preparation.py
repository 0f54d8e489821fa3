from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamkit.config import DataConfig
from siamkit.data.images import Box, ImageSet, Sample
from siamkit.data.preparation import Preparation, bits_for, choose_fit, preparation
from siamkit.interfaces import Fit, Preprocessing
from siamkit.portable.looking import look

NO_MARGIN = Preprocessing(crop_pct=1.0)


def found(
    folder: Path,
    pixels: list[Any],
    boxes: Mapping[int, Box] = {},
    own: Preprocessing = NO_MARGIN,
    others: Mapping[str, list[Any]] = {},
    **values: Any,
) -> Preparation:
    sets: dict[str, ImageSet] = {}
    for part, images in {"train": pixels, **others}.items():
        samples = []
        for number, image in enumerate(images):
            path = folder / f"{part}{number}.png"
            Image.fromarray(image).save(path)
            box = boxes.get(number) if part == "train" else None
            samples.append(Sample(path, 0, path.name, box))
        sets[part] = ImageSet(tuple(samples), ("a",))
    paths = [sample.path for images in sets.values() for sample in images.samples]
    facts = {found.path: found for found in look(paths)}
    return preparation(DataConfig(**values), sets, facts, own)


def grey(width: int, height: int) -> Any:
    return np.zeros((height, width), np.uint8)


def test_a_set_of_square_images_is_cropped_without_a_word(tmp_path: Path) -> None:
    assert found(tmp_path, [grey(60, 60)] * 3) == Preparation("crop", "full", 0, 0, ())


def test_elongated_images_are_squashed_and_the_user_is_told(tmp_path: Path) -> None:
    result = found(tmp_path, [grey(240, 60)] * 3 + [grey(60, 60)])
    assert (result.fit, result.elongated, result.lost) == ("squash", 0.75, 0.75)
    assert result.notices == (
        "3 of 4 training images are elongated: images are squashed, because a centre crop would "
        "leave out 75% of their area",
    )


def test_a_crop_that_the_user_chose_is_kept_and_its_loss_is_told(tmp_path: Path) -> None:
    result = found(tmp_path, [grey(60, 240)], fit="crop")
    assert result.fit == "crop"
    (notice,) = result.notices
    assert notice.startswith(
        "the centre crop leaves out 75% of the area of 1 of 1 training image; training with "
    )
    assert "fit" in notice


def test_boxes_have_shapes_of_their_own(tmp_path: Path) -> None:
    wide = [grey(240, 60)] * 2
    squares = {0: (0.0, 0.0, 60.0, 60.0), 1: (100.0, 0.0, 160.0, 60.0)}
    assert found(tmp_path, wide, squares).fit == "crop"


def test_an_input_that_is_not_square_decides_what_is_elongated(tmp_path: Path) -> None:
    wide = Preprocessing(size=(100, 200), crop_pct=1.0)
    assert found(tmp_path, [grey(240, 120)], own=wide).fit == "crop"
    assert found(tmp_path, [grey(100, 100)], own=wide).fit == "squash"


def test_common_photographs_are_cropped(tmp_path: Path) -> None:
    assert found(tmp_path, [grey(400, 300), grey(300, 200), grey(500, 333)]).notices == ()


def test_the_loss_of_images_below_the_bound_for_squashing_is_told(tmp_path: Path) -> None:
    for fit in ("auto", "crop"):
        result = found(tmp_path, [grey(96, 60)] * 2, fit=fit)
        assert (result.fit, result.elongated) == ("crop", 0)
        (notice,) = result.notices
        assert notice.startswith("the centre crop leaves out 38% of the area of 2 of 2 training im")
    assert found(tmp_path, [grey(96, 60)], fit="squash").notices == ()


@pytest.mark.parametrize(("part", "noun"), [("val", "validation image"), ("test", "test image")])
def test_every_part_of_the_data_is_judged(tmp_path: Path, part: str, noun: str) -> None:
    result = found(tmp_path, [grey(60, 60)] * 2, others={part: [grey(160, 40), grey(50, 50)]})
    assert result.fit == "crop"
    (notice,) = result.notices
    assert f"leaves out 75% of the area of 1 of 2 {noun}s; " in notice
    whole, dark = np.full((20, 20), 60_000, np.uint16), np.full((20, 20), 4000, np.uint16)
    (notice,) = found(tmp_path, [whole], others={part: [dark]}).notices
    assert notice.startswith(f"the values of 1 {noun} of more than 8 bits end at 4000, but 65535")


@pytest.mark.parametrize("own", ["crop", "pad", "squash"])
def test_the_backbones_own_fit_is_kept_unless_it_crops_elongated_images(own: Fit) -> None:
    assert choose_fit("auto", own, 0.0) == own
    assert choose_fit("auto", own, 1.0) == ("squash" if own == "crop" else own)
    for wanted in ("crop", "pad", "squash"):
        assert choose_fit(wanted, own, 1.0) == wanted  # type: ignore[arg-type]


@given(st.integers(0, 65535))
def test_the_bits_are_the_fewest_that_hold_a_value(value: int) -> None:
    bits = bits_for(value)
    if bits is None:
        assert value >= 2**15
    else:
        assert 9 <= bits <= 15 and value < 2**bits and (bits == 9 or value >= 2 ** (bits - 1))


def test_values_of_twelve_bits_are_found_and_told(tmp_path: Path) -> None:
    values = np.full((20, 20), 100, np.uint16)
    other = values.copy()
    other[3, 4] = 4000
    result = found(tmp_path, [values, other, grey(20, 20)])
    assert result.range == 12
    (notice,) = result.notices
    assert notice.startswith(
        "the values of 2 images of 16 bits end at 4000, so they are read as 12 bits: 4095 is white"
    )


@pytest.mark.parametrize("wanted", ["full", 14, (0.0, 500.0)])
def test_a_range_that_the_user_chose_is_kept_and_what_it_loses_is_told(
    tmp_path: Path, wanted: Any
) -> None:
    values = np.full((20, 20), 4000, np.uint16)
    result = found(tmp_path, [values], range=wanted)
    assert result.range == wanted
    # 4000 is a quarter of the values of 14 bits, and a sixteenth of those of 16.
    told = "100% of the pixels" if wanted == (0.0, 500.0) else "sees them dark"
    assert [told in text for text in result.notices] == [True]


def test_values_of_sixteen_bits_have_the_full_range(tmp_path: Path) -> None:
    result = found(tmp_path, [np.full((20, 20), 40_000, np.uint16)])
    assert (result.range, result.notices) == ("full", ())
