from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from siamkit.config import RunConfig
from siamkit.config.layers import (
    _path_keys,
    joined,
    parse_sets,
    preset_file,
    preset_names,
    read_file,
    read_preset,
    whole,
    without,
)
from siamkit.errors import ConfigError


def test_a_preset_is_a_layer_that_says_where_its_values_are_from() -> None:
    names = preset_names()
    assert names and names == sorted(names)
    for name in names:
        assert preset_file(name).read_text().startswith("#")
        layer = read_preset(name)
        assert layer and layer.where("loss.margin") == f"preset {name!r}: loss.margin"


def test_an_unknown_preset_gets_the_nearest_and_all_names() -> None:
    first = preset_names()[0]
    with pytest.raises(ConfigError) as raised:
        read_preset(first + "x")
    error = raised.value
    assert (error.what, error.where) == (f"unknown preset '{first}x'", "--preset")
    assert repr(first) in (error.hint or "") and repr(first) in (error.allowed or "")


def test_text_that_stands_for_a_section_becomes_the_section() -> None:
    given = {"loss": "triplet", "data": {"path": "a", "augment": "marks"}, "train": {"seed": 3}}
    assert whole(given) == {
        "loss": {"name": "triplet"}, "data": {"path": "a", "augment": {"preset": "marks"}},
        "train": {"seed": 3},
    }  # fmt: skip
    assert whole({"data": "photos", "report": False}) == {
        "data": {"path": "photos"},
        "report": False,
    }
    assert whole(whole(given)) == whole(given)


def test_layers_that_are_joined_name_the_source_of_each_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("loss: {name: triplet, margin: 0.3}\ntrain: {seed: 1}\n")
    file, sets = read_file(tmp_path / "c.yaml"), parse_sets(["train.seed=2", "loss.name=supcon"])
    made = joined([file, sets])
    assert made == {"loss": {"name": "supcon"}, "train": {"seed": 2}}, (
        "the margin went with triplet"
    )
    assert made.where("train.seed") == "--set train.seed"
    assert made.where("loss.margin").endswith("c.yaml: loss.margin")
    assert made.where("train.epochs") == "train.epochs"


def test_every_key_that_is_a_path_is_known() -> None:
    found: Iterator[tuple[str, ...]] = _path_keys(RunConfig)
    keys = set(found)
    assert {("data", "path"), ("data", "root"), ("run_dir",)} & keys
    assert ("data", "image_size") not in keys


def test_values_are_left_out_by_their_dotted_keys() -> None:
    layer = {"loss": {"name": "triplet", "margin": 0.2}, "data": {"augment": {"blur": 0.1}}}
    left = without(layer, ["loss.margin", "data.augment.blur", "head.dim", "loss.none"])
    assert left == {"loss": {"name": "triplet"}, "data": {"augment": {}}}
    assert layer["loss"] == {"name": "triplet", "margin": 0.2}, "the layer itself stays"
