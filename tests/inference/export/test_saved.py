"""Networks that are exported for siamkit and torch, or for plain timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from siamkit import api
from siamkit.errors import ConfigError
from siamkit.inference.export import measuring
from siamkit.inference.export.checking import COSINE
from siamkit.inference.export.saved import Saving, export_saved, write_card
from siamkit.inference.export.timing import Pace
from siamkit.model.pretrained.card import CardSection

SAVING = Saving("mit", "random", (CardSection("Run", ["Long."]),), {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measuring, "paces", lambda runners, _: {n: Pace(1e-3, 9.0) for n in runners}
    )


def network(head: str) -> Any:
    torch.manual_seed(0)
    return api.create_model(
        "timm:test_resnet", pretrained=False, image_size=32, head=head
    ).eval()  # fmt: skip


def files(folder: Path) -> tuple[int, int]:
    return tuple((folder / name).stat().st_size
                 for name in ("model.safetensors", "siamkit.safetensors"))  # type: ignore[return-value]  # fmt: skip


def test_a_network_for_torch_is_loaded_again_and_measured(subject_of: Any, tmp_path: Path) -> None:
    said: list[str] = []
    subject = subject_of(network("mlp"), say=said.append)
    made = export_saved(subject, "torch", tmp_path, SAVING)
    assert (made.kind, made.precision, made.model) == ("torch", "float32", "model.safetensors")
    assert (made.width, made.normalized) == (subject.net.embedding_dim, True)
    assert made.cosine is not None and made.cosine >= COSINE
    (row,) = made.rows
    assert (row.kind, row.precision, row.bytes) == ("torch", "float32", sum(files(tmp_path)))
    assert row.metrics["recall@1"] is not None
    assert (made.threshold.calibration, made.notices) == (None, ())
    assert said[:2] == [
        "saves the network", "compares the saved network in batches of 1, 2, 7",
    ]  # fmt: skip
    card = (tmp_path / "README.md").read_text()
    assert "license: mit" in card and "## Run\n\nLong." in card
    sections = [CardSection("Quality", ["Good."])]
    write_card(tmp_path, sections, "apache-2.0")
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card and "## Quality\n\nGood." in card


@pytest.mark.parametrize("head", ["identity", "linear"])
def test_plain_timm_gets_the_backbone_and_the_threshold_only_without_a_head(
    subject_of: Any, tmp_path: Path, head: str
) -> None:
    class Known:
        threshold = 0.5

        def to_json(self) -> dict[str, Any]:
            return {}

    said: list[str] = []
    known: Any = Known()
    subject = subject_of(network(head), calibration=known, say=said.append)
    made = export_saved(subject, "timm", tmp_path, SAVING)
    alone = head == "identity"
    assert (made.kind, made.precision, made.model) == ("timm", "float32", "model.safetensors")
    assert (made.width, made.normalized) == (subject.net.backbone.embedding_dim, False)
    assert made.threshold.calibration is (known if alone else None)
    assert len(made.notices) == (0 if alone else 1)
    ours, timms = made.rows
    backbone, rest = files(tmp_path)
    assert (ours.kind, ours.bytes) == ("torch", backbone + rest)
    assert (timms.kind, timms.bytes) == ("timm", backbone)
    assert (timms.metrics["far"] is not None) == alone, "the threshold is of other embeddings"
    assert ours.metrics["far"] is not None
    assert "compares timm's backbone in batches of 1, 2, 7" in said


def test_a_backbone_that_timm_cannot_build_is_refused(subject_of: Any, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layer(images.mean((2, 3)))
            return features

    net = api.create_model(Own(), head="linear", image_size=32)
    with pytest.raises(ConfigError, match="plain timm cannot build this backbone"):
        export_saved(subject_of(net), "timm", tmp_path, SAVING)
