"""The presets of the augmentation, and what layers of configuration make of them."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from siamkit.api import load_config
from siamkit.cli.run_flags import RunFlags
from siamkit.config import PRESETS, AugmentConfig, RunConfig, parse_sets, read_file
from siamkit.config.augment import PresetName
from siamkit.errors import ConfigError


def augment(*layers):
    return load_config(*layers).data.augment


def test_every_preset_has_strengths_within_the_bounds_and_says_what_it_assumes():
    assert tuple(PRESETS) == get_args(PresetName)
    for name, preset in PRESETS.items():
        made = AugmentConfig(preset=name)
        assert {k: made.strengths[k] for k in preset.strengths} == dict(preset.strengths)
        assert made.is_random == (name != "none")
        assert preset.suits and preset.assumes.endswith(".")


def told_strengths() -> dict[str, dict[str, float]]:
    """Return the strengths that the page on augmentation states, by preset."""
    page = Path(__file__).parents[2] / "docs/howto/augment.md"
    texts = {
        "area": r"([\d.]+) % to ([\d.]+) % of the area", "rotate": r"rotated by up to ([\d.]+)°",
        "brightness": r"brightness ± ([\d.]+) %", "contrast": r"contrast ± ([\d.]+) %",
        "saturation": r"saturation ± ([\d.]+) %", "hue": r"hue shifted by up to ([\d.]+) turns",
        "grayscale": r"([\d.]+) % turned grey", "blur": r"([\d.]+) % blurred",
        "horizontal_flip": r"([\d.]+) % mirrored",
    }  # fmt: skip
    told = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if row := re.fullmatch(r"\| `(\w+)` \|.*\|.*\| (.*) \|", line):
            found = {name: re.search(text, row[2]) for name, text in texts.items()}
            told[row[1]] = {
                n: tuple(map(float, f.groups())) if f else (0.0,) for n, f in found.items()
            }
    return told


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_does_what_the_page_on_augmentation_says(name):
    told, made = told_strengths()[name], AugmentConfig(preset=name)
    area = tuple(share / 100 for share in told.pop("area"))
    assert made.crop_scale == pytest.approx((1, 1) if area == (0,) else area)
    for key, (number,) in told.items():
        unit = 1 if key in ("rotate", "hue") else 100
        assert getattr(made, key) == pytest.approx(number / unit), key
    # A crop is as often wider as it is taller.
    low, high = made.crop_ratio
    assert low * high == pytest.approx(1, abs=0.005)
    assert (low < 1) == (name != "none")


def test_the_default_is_a_preset():
    assert AugmentConfig() == AugmentConfig(preset="objects") == RunConfig().data.augment
    # A default that is shown in the reference is the one that is used.
    defaults = {name: field.default for name, field in AugmentConfig.model_fields.items()}
    assert AugmentConfig().model_dump() == defaults


@pytest.mark.parametrize(
    ("key", "most"),
    [
        ("rotate", 180), ("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5),
        ("grayscale", 1), ("blur", 1), ("horizontal_flip", 1),
    ],
)  # fmt: skip
def test_each_strength_has_bounds(key, most):
    for allowed in (0, most / 2, most):
        assert getattr(AugmentConfig(**{key: allowed}), key) == allowed
    for wrong in (-0.01, most + 0.01):
        with pytest.raises(ConfigError, match=f"data.augment.{key}: must be"):
            augment({"data": {"augment": {key: wrong}}})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("crop_scale", [0, 1]), ("crop_scale", [0.5, 0.4]), ("crop_scale", [0.5, 1.01]),
        ("crop_ratio", [0, 1]), ("crop_ratio", [2, 1.9]),
    ],
)  # fmt: skip
def test_the_ranges_of_the_crop_have_bounds(key, wrong):
    with pytest.raises(ConfigError, match=rf"{key}: must be \[low, high\] with 0 < low <= high"):
        augment({"data": {"augment": {key: wrong}}})
    assert AugmentConfig(crop_ratio=(0.5, 5)).crop_ratio == (0.5, 5)


def test_auto_is_no_preset_and_says_what_is():
    with pytest.raises(ConfigError, match=r"auto is no preset.*recipe 'augment' chooses one"):
        augment({"data": {"augment": "auto"}})


def test_only_kinds_whose_mirror_image_is_the_same_are_mirrored():
    assert [n for n in PRESETS if AugmentConfig(preset=n).horizontal_flip] == ["faces"]


@pytest.mark.parametrize("name", ["marks", "medical"])
def test_where_colour_carries_meaning_no_hue_is_shifted_and_nothing_turns_grey(name):
    made = AugmentConfig(preset=name)
    assert made.hue == made.grayscale == 0


def test_keys_beside_a_preset_override_it():
    made = augment({"data": {"augment": {"preset": "marks", "hue": 0.2}}})
    assert made.hue == 0.2 and made.crop_scale == AugmentConfig(preset="marks").crop_scale


def test_a_preset_may_be_named_alone(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {augment: documents}\n")
    layer = read_file(tmp_path / "run.yaml")
    assert augment(layer) == AugmentConfig(preset="documents")
    assert layer.sets("data.augment.preset") and not layer.sets("data.augment.hue")
    more = parse_sets(["data.augment.hue=0.3"])
    assert augment(layer, more) == AugmentConfig(preset="documents", hue=0.3)
    both = parse_sets(["data.augment=marks", "data.augment.blur=0.5"])
    assert augment(both) == AugmentConfig(preset="marks", blur=0.5)
    assert AugmentConfig.model_validate("faces") == AugmentConfig(preset="faces")


def test_a_higher_preset_replaces_a_lower_one_with_its_strengths():
    lower = {"data": {"augment": {"preset": "marks", "hue": 0.2}, "in_chans": 1}}
    made = load_config(lower, {"data": {"augment": "faces"}}).data
    assert made.augment == AugmentConfig(preset="faces") and made.in_chans == 1
    same = augment(lower, {"data": {"augment": "marks"}})
    assert same.hue == 0.2, "the same preset keeps what was set beside it"


def test_strengths_of_a_layer_without_a_preset_apply_to_the_preset_of_another():
    assert augment({"data": {"augment": {"hue": 0.2}}}, {"data": {"augment": "faces"}}) == (
        AugmentConfig(preset="faces", hue=0.2)
    )


def test_a_written_config_can_be_read_and_its_preset_replaced(tmp_path):
    config = load_config({"data": {"augment": {"preset": "marks", "hue": 0.2}}})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    written = read_file(tmp_path / "config.yaml")
    assert augment(written) == config.data.augment
    flags = RunFlags(config=tmp_path / "config.yaml", augment="none")
    assert augment(*flags.layers()) == AugmentConfig(preset="none")


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError) as error:
        load_config(parse_sets(["data.augment=logos"]))
    text = str(error.value)
    assert text.startswith("--set data.augment.preset: ") and "'marks'" in text
    with pytest.raises(ConfigError, match=r"data.augment.enabled: unknown key"):
        load_config({"data": {"augment": {"enabled": False}}})
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate({"preset": ["marks"]})


def test_strengths_that_change_nothing_are_not_random():
    none = AugmentConfig(preset="none")
    assert not none.is_random
    assert not AugmentConfig(**none.strengths).is_random, "whatever the preset is called"
    for name, value in AugmentConfig(
        preset="faces", horizontal_flip=0.5, saturation=0.1
    ).strengths.items():
        assert AugmentConfig(preset="none", **{name: value}).is_random, name
