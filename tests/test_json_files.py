"""One reader of JSON, and seals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.errors import CheckpointError
from siamkit.json_files import (
    digest_of,
    parsed,
    read_json,
    read_sealed,
    sealed,
    unsealed,
    write_json,
    write_sealed,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text().filter(lambda key: key != "sha256"), values, max_size=4)


@given(objects)
def test_what_is_sealed_comes_back_in_any_layout(value: dict[str, Any]) -> None:
    text = json.dumps(sealed(value), sort_keys=True, indent=3)
    assert unsealed(parsed(text), "here") == value


@given(objects, st.data())
def test_any_other_value_breaks_the_seal(value: dict[str, Any], data: st.DataObject) -> None:
    whole = sealed(value)
    key = data.draw(st.sampled_from(sorted(whole)))
    other = data.draw(values.filter(lambda v: digest_of(v) != digest_of(whole[key])))
    with pytest.raises(CheckpointError, match="here: the file is damaged or was edited; do this"):
        unsealed({**whole, key: other}, "here", "do this")


@pytest.mark.parametrize("value", [None, [], "text", {}, {"a": 1}, {"sha256": None}])
def test_what_has_no_seal_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError):
        unsealed(value, "here")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000], ids=range(5)
)
def test_what_is_no_json_is_an_error_of_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\.json: the file is damaged; do this"):
        read_json(path, "do this")
    with pytest.raises(ValueError):
        parsed(content)


def test_each_flipped_bit_of_a_file_is_refused_or_changes_no_value(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    value = {"threshold": 0.98, "names": ["a", "b"], "none": None}
    write_sealed(path, value)
    content = path.read_bytes()
    passed = 0
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert read_sealed(path) == value
            passed += 1
        except CheckpointError as error:
            assert str(path) in str(error)
    assert passed < 40, "only in white space"


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "file.json", {"value": value})
    assert not list(tmp_path.iterdir())
