"""The contact sheet of ``siamkit data show``: a set's images, and their views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamkit.config import PRESETS, AugmentConfig
from siamkit.data.showing import Showing, ShownImage
from siamkit.report.sheet.model import Group, Picture, Row, Sheet, at_side, in_its_shape
from siamkit.report.units import percent, percent_range
from siamkit.words import plural

_WORDS = {
    "rotate": "rotated by up to {value:g}°",
    "brightness": "brightness ± {percent}",
    "contrast": "contrast ± {percent}",
    "saturation": "saturation ± {percent}",
    "hue": "hue shifted by up to {value:g} turns",
    "grayscale": "{percent} turned grey",
    "blur": "{percent} blurred",
    "horizontal_flip": "{percent} mirrored",
}


def views_sheet(showing: Showing) -> Sheet:
    """Return the contact sheet of a few images and their views."""
    config = showing.config.data
    preset = PRESETS[config.augment.preset]
    height, width = showing.preprocessing.size
    about = [
        ("data", f"{config.path}: {_sizes(showing.sizes)}"),
        ("split", showing.how),
        ("input", f"{width} x {height} pixels, {showing.config.backbone.name}"),
        ("fit", config.fit),
        ("range", str(config.range)),
        ("augmentation", f"{config.augment.preset}, for {preset.suits}"),
        ("what it assumes", preset.assumes),
        ("what it does", strengths_text(config.augment)),
    ]
    return Sheet(
        "siamkit data show",
        "What the network sees",
        "Each row shows an image as its file holds it, the view that evaluation uses, and views "
        "that training uses. Training views must still show what makes the class: look for parts "
        "that are cut off, and for colours that would be another class.",
        about,
        [Group("Images", "", [_row(image, config.augment.is_random) for image in showing.images])],
        showing.notices,
    )


def strengths_text(augment: AugmentConfig) -> str:
    """Return the random changes that are on, in words."""
    if not augment.is_random:
        return "nothing: training images are prepared as for evaluation"
    low, high = augment.crop_scale
    texts = [] if low == high == 1 else [f"{percent_range(low, high)} of the area"]
    values: Mapping[str, Any] = augment.strengths
    texts += [
        text.format(value=values[key], percent=percent(values[key]))
        for key, text in _WORDS.items()
        if values[key]
    ]
    return ", ".join(texts)


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{plural(number, 'image')} in {name}" for name, number in sizes.items())


def _row(image: ShownImage, is_random: bool) -> Row:
    whole = image.original
    width, height = whole.size
    caption = f"file, {width} x {height}"
    if whole.values is not None:
        low, high = whole.values
        caption += f", values {low:g} to {high:g}"
    pictures: list[Picture] = [
        in_its_shape(whole.image, caption),
        at_side(image.evaluation, "evaluation"),
    ]
    name = "training view {}" if is_random else "training"
    pictures += [at_side(view, name.format(n)) for n, view in enumerate(image.training, 1)]
    return Row(image.label, f"{image.sample.key}: {image.choice.why}", pictures)
