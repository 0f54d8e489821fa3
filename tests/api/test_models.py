"""A run's network is loaded only if it computes what the trained network did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.errors import CheckpointError, PluginError
from siamkit.runs.computed import file
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut


class Net(nn.Module):
    """A network with a part that its tensors do not determine."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)
        self.register_buffer("scale", torch.rand(6, 1, 1), persistent=False)
        self.power = power

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images).relu() * self.scale
        return maps.mean((2, 3)) ** self.power


def plugin(power: float) -> None:
    siamkit.register_backbone("odd", lambda _options, _context: Net(power), replace=True)


@pytest.fixture
def run(tmp_path: Path, values_of: Any) -> Path:
    plugin(1.0)
    folder = tmp_path / "run"
    siamkit.fit(values_of(folder, backbone={"name": "odd"}, head={"name": "linear", "dim": 4}))
    return folder


def test_a_random_buffer_that_is_not_saved_is_drawn_again(run: Path) -> None:
    kept = HeldOut.load(RunDir(run), "val")
    assert kept is not None
    found = siamkit.load_embedder(run, device="cpu").embed(kept.images.samples)
    torch.testing.assert_close(found, torch.from_numpy(kept.embeddings), atol=1e-4, rtol=1e-4)


def test_a_network_whose_code_changed_is_refused(run: Path) -> None:
    siamkit.load_model(run)
    plugin(3.0)
    with pytest.raises(CheckpointError, match=r"differ from those of the trained.*plugins\.json"):
        siamkit.load_model(run)


def test_a_run_without_the_embeddings_is_loaded_as_before(run: Path) -> None:
    file(RunDir(run)).unlink()
    plugin(3.0)
    assert siamkit.load_model(run).embedding_dim == 4


@pytest.mark.parametrize("way", ["save_pretrained", "export"])
def test_what_no_folder_can_hold_is_not_saved(run: Path, tmp_path: Path, way: str) -> None:
    kind = {"format": "torch"} if way == "export" else {}
    with pytest.raises(PluginError, match=r"another output, so the backbone cannot be.*persistent"):
        getattr(siamkit, way)(run, tmp_path / "saved", **kind)
    assert not (tmp_path / "saved").exists()
