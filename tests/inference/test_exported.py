"""Exported models in place of runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit.errors import CheckpointError, ConfigError
from siamkit.inference.exported import load_embedder, runs_here, searches
from siamkit.portable.manifest import MANIFEST
from siamkit.portable.model import ExportedModel


def test_an_exported_model_runs_without_torch_and_a_run_does_not(
    exported_run: tuple[Path, Path], tmp_path: Path
) -> None:
    run, model = exported_run
    assert runs_here(model) and runs_here(str(model))
    for other in (run, tmp_path, tmp_path / "none", None, 3):
        assert not runs_here(other)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        runs_here(tmp_path)


@pytest.mark.parametrize("by_model", [True, False])
def test_an_index_is_searched_by_what_is_named_or_by_what_built_it(
    exported_run: tuple[Path, Path], image_folder: Path, tmp_path: Path, by_model: bool
) -> None:
    run, model = exported_run
    index = tmp_path / "index"
    builder: Any = model if by_model else run
    siamkit.build_index(builder, image_folder / "class0", index)
    assert searches(index, None) is by_model
    assert searches(index, model) and not searches(index, run)


def test_an_exported_model_is_opened_as_it_is(exported_run: tuple[Path, Path]) -> None:
    model = exported_run[1]
    for device in ("auto", "cpu"):
        assert isinstance(load_embedder(model, device=device), ExportedModel)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"which": "last"}, "which"),
        ({"workers": 0}, "workers"),
        ({"workers": 2}, "workers"),
        ({"device": "cuda"}, "device: an exported model runs on the CPU, got 'cuda', allowed: "),
    ],
)
def test_what_does_not_suit_an_exported_model_is_refused(
    exported_run: tuple[Path, Path], given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load_embedder(exported_run[1], **given)


def test_a_damaged_model_is_refused(exported_run: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exported_run[1], tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        load_embedder(folder)
