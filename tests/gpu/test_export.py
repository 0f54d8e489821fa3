"""What was trained on a GPU gives the same embeddings on a CPU, in torch and exported to ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siamkit
from siamkit import api
from siamkit.inference.export import measuring
from siamkit.inference.export.timing import Pace
from siamkit.portable.model import ExportedModel

ALLOWED = 1e-4
"""Largest difference of embeddings of length 1. Embedders compute in float32 on both devices, also
if the run trained in bf16."""


@pytest.fixture(params=["fp32", "bf16"])
def run(train: Any, request: Any) -> Iterator[Any]:
    yield train(train={"precision": request.param, "epochs": 2})


def test_an_embedder_on_the_gpu_gives_what_one_on_the_cpu_gives(
    run: Any, image_folder: Path, device: torch.device
) -> None:
    on_cpu = api.load_embedder(run.path, device="cpu", kernel="eager", workers=0)
    expected = on_cpu.embed(image_folder)
    for kernel in ("eager", "folded"):
        here = api.load_embedder(run.path, device=str(device), kernel=kernel, workers=0)
        found = here.embed(image_folder)
        assert found.device.type == "cpu" and here.kernel_name == kernel
        assert float((found - expected).abs().max()) < ALLOWED
        assert here.fingerprint == on_cpu.fingerprint


def test_a_calibrated_threshold_decides_alike_on_both(
    run: Any, image_folder: Path, device: torch.device
) -> None:
    files = sorted(image_folder.rglob("*.png"))[:6]
    verdicts = []
    for name in ("cpu", str(device)):
        embedder = api.load_embedder(run.path, device=name, kernel="eager", workers=0)
        verdicts.append([embedder.verify(files[0], file).score for file in files])
    assert verdicts[1] == pytest.approx(verdicts[0], abs=1e-4)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_exported_network_gives_what_the_run_gives(
    run: Any, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    pace = Pace(1e-3, 9.0)  # how fast it is does not matter
    monkeypatch.setattr(measuring, "paces", lambda runners, _: dict.fromkeys(runners, pace))
    siamkit.export(run.path, tmp_path / "model", format=format)  # type: ignore[arg-type]
    model: Any = (
        ExportedModel(tmp_path / "model")
        if format == "onnx"
        else api.load_embedder(tmp_path / "model", device="cpu", workers=0)
    )
    found = np.asarray(model.embed(image_folder))
    expected = api.load_embedder(run.path, device="cpu", kernel="eager", workers=0)
    assert np.abs(found - expected.embed(image_folder).numpy()).max() < ALLOWED


def test_a_checkpoint_holds_tensors_that_load_without_a_gpu(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {tensor.device.type for tensor in run.tensors.values()} == {"cpu"}
    net = api.load_model(run.path)
    assert {p.device.type for p in net.parameters()} == {"cpu"}


def test_evaluation_on_the_cpu_gives_the_runs_own_figures(run: Any, device: torch.device) -> None:
    here, on_cpu = (siamkit.evaluate(run.path, device=name) for name in (str(device), "cpu"))
    for name in ("recall@1", "map@r"):
        ours, theirs = (result["retrieval"][name] for result in (here, on_cpu))
        assert ours == pytest.approx(theirs, abs=0.05)
