from __future__ import annotations

from collections.abc import Iterator

import pytest

from siamkit.config import RunConfig
from siamkit.config.layers import _path_keys, preset_file, preset_names, read_preset
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


def test_every_key_that_is_a_path_is_known() -> None:
    found: Iterator[tuple[str, ...]] = _path_keys(RunConfig)
    keys = set(found)
    assert {("data", "path"), ("data", "root"), ("run_dir",)} & keys
    assert ("data", "image_size") not in keys
