"""Files of tensors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from torch import nn

from siamkit.errors import CheckpointError
from siamkit.tensor_files import _apart, load_tensors, save_arrays, save_tensors


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.arange(12.0).reshape(3, 4))
    tensors = {
        "whole": weight,
        "tied": weight,
        "row": weight[1],
        "column": weight[:, 1],
        "flipped": weight.T,
        "same": weight.view(12),
        "other": torch.ones(2),
        "empty": torch.empty(0),
        "nothing": torch.empty(0),
    }
    save_tensors(tensors, tmp_path / "a.safetensors")
    back = load_tensors(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_only_what_shares_memory_is_copied() -> None:
    weight, other = torch.arange(6.0), torch.ones(2)
    apart = _apart({"a": weight, "b": weight, "c": other})
    places = {name: tensor.data_ptr() for name, tensor in apart.items()}
    assert places["a"] == weight.data_ptr() and places["c"] == other.data_ptr()
    assert places["b"] != places["a"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_gives_the_mode_of_a_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        save_arrays({"a": np.ones(2)}, tmp_path / "b.safetensors")
    finally:
        os.umask(before)
    for name in ("a", "b"):
        assert stat.S_IMODE((tmp_path / f"{name}.safetensors").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("I/O error: No space left on device (os error 28)", OSError),
        ("invalid metadata", safetensors.SafetensorError),
    ],
)
def test_a_full_disk_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception]
) -> None:
    def full(*_: object) -> None:
        raise safetensors.SafetensorError(text)

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(error) as caught:
        save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.strerror) == (28, "No space left on device")


def test_a_damaged_or_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the file is missing"):
        load_tensors(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the file is damaged"):
        load_tensors(path)
