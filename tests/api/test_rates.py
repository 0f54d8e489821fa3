"""``siamkit.find_lr``: names, mappings and objects in, a typed result out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import siamkit
from siamkit.errors import ConfigError, ResourceError

RunValues = Callable[..., dict[str, Any]]


@pytest.fixture
def values(run_values: RunValues) -> dict[str, Any]:
    return {k: v for k, v in run_values(loss="triplet").items() if k != "run_dir"}


@pytest.mark.slow
def test_the_result_is_typed(values: dict[str, Any]) -> None:
    result = siamkit.find_lr(values, steps=30)
    assert result.lr == result["lr"] and isinstance(result.lr, float)
    low, high = result.interval or (0.0, 0.0)
    assert 0 < low <= high
    assert result.rates == result["rates"] and 1 < len(result.loss) <= len(result.rates) + 1
    assert result.reason and result.to_json()["output"] is None
    assert "suggested rate" in repr(result)


def test_arguments_override_a_config(values: dict[str, Any]) -> None:
    result = siamkit.find_lr(values, steps=20, freeze="freeze-all", epochs=2)
    assert [stage["name"] for stage in result["phase"]["stages"]] == ["head"]
    assert result["phase"]["last_epoch"] == 2
    with pytest.raises(ConfigError, match="frezee: no such argument"):
        siamkit.find_lr(values, frezee="full")


def test_objects_and_images_in_memory_are_tested_and_stay(tmp_path: Path) -> None:
    class TwoViews(siamkit.Loss):
        second_view = True

        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
            self.seen += 1
            first, second = embeddings.chunk(2)
            return (1 - (first * second).sum(dim=1)).mean() + first.mean(dim=0).square().sum()

    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )  # fmt: skip
    before = [p.clone() for p in backbone.parameters()]
    loss, images = TwoViews(), []
    for label in range(6):
        for shade in range(4):
            images.append((Image.new("RGB", (24, 24), (40 * label, 60 * shade, 90)), label))
    result = siamkit.find_lr(
        data=images, backbone=backbone, head={"name": "linear", "dim": 4}, loss=loss,
        freeze="full", steps=20, image_size=24, batch_size=8,
        train={"images_per_class": 2},
    )  # fmt: skip
    assert len(result.loss) > 5
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    assert loss.seen == 0  # the caller's object was copied


@pytest.mark.slow
def test_passes_become_smaller_where_the_memory_runs_out(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=4)
            self.limit = 3

        def forward(self, images: Tensor) -> Tensor:
            if self.training and torch.is_grad_enabled() and len(images) > self.limit:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
            return self.conv(images).mean((2, 3))  # type: ignore[no-any-return]

    def find(limit: int) -> Any:
        torch.manual_seed(0)
        backbone = Small()
        backbone.limit = limit
        return siamkit.find_lr(values, backbone=backbone, freeze="full", steps=20,
                               engine={"cut": "off"})  # fmt: skip

    assert find(3).loss[:8] == pytest.approx(find(1000).loss[:8], rel=1e-3)
    with pytest.raises(ResourceError, match=r"in the range test, with one image per forward pass"):
        find(0)
    monkeypatch.setattr("siamkit.training.fitting.free_bytes", lambda device: 1)
    values = {**values, "train": {**values["train"], "micro_batch": "auto"}}
    find(1)


def test_batch_statistics_are_refused_first(values: dict[str, Any]) -> None:
    values = {**values, "train": {**values["train"], "micro_batch": 4}}
    with pytest.raises(ConfigError, match="would use the statistics of a micro-batch"):
        siamkit.find_lr(values, head="bnneck")


@pytest.mark.slow
def test_known_pairs_are_tested(tmp_path: Path, draw_image: Callable[..., None]) -> None:
    rows = ["a,b,same"]
    for kind in range(6):
        for index in range(2):
            draw_image(tmp_path / f"{kind}-{index}.png", kind, index)
        rows.append(f"{kind}-0.png,{kind}-1.png,1")
        rows.append(f"{kind}-0.png,{(kind + 1) % 6}-1.png,0")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(rows))
    result = siamkit.find_lr(
        data=table, backbone={"name": "timm:test_resnet", "pretrained": False}, loss="contrastive",
        image_size=32, batch_size=8, steps=20, train={"images_per_class": 2},
    )  # fmt: skip
    assert len(result.loss) > 5


def test_the_page_is_written_and_a_folder_is_refused_first(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "lr.html"
    result = siamkit.find_lr(values, steps=20, output=page)
    assert result["output"] == str(page)
    assert "Loss by learning rate" in page.read_text()
    monkeypatch.setattr("siamkit.training.find_lr.run_range_test", None)
    with pytest.raises(ConfigError, match="is a folder; give the path of a file"):
        siamkit.find_lr(values, output=tmp_path)
