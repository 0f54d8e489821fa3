"""Files of tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from siamkit.tensor_files import _apart, load_tensors, save_tensors


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
