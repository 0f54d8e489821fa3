"""Whole runs that are pruned: with real data, a small network, and every step of the real chain."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError, ConfigError
from siamkit.freezing.proof import fingerprints

pytest.importorskip("torch_pruning")

RunValues = Callable[..., dict[str, Any]]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, values_of: RunValues) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    api.fit(values_of(folder, train={"epochs": 2}, freeze={"name": "stages", "warmup": 0}))
    return folder


@pytest.fixture(scope="module")
def done(trained: Path) -> siamkit.api.results.PruningResult:  # type: ignore[name-defined]
    return siamkit.prune(trained, trained.with_name("small"), ratio=0.5, freeze="full")


def test_the_new_run_is_smaller_and_the_old_one_is_untouched(trained: Path) -> None:
    before = contents(trained)
    result = siamkit.prune(trained, trained.with_name("other"), ratio=0.4, finetune_epochs=1)
    assert contents(trained) == before
    assert result["after"]["flops"] <= 0.6 * result["before"]["flops"]
    assert result["after"]["flops"] >= 0.4 * result["before"]["flops"]
    assert result["after"]["parameters"] < result["before"]["parameters"]
    full, small = (siamkit.load_model(r) for r in (trained, result.run_dir))
    assert full.embedding_dim == small.embedding_dim
    assert full.backbone.embedding_dim == small.backbone.embedding_dim
    assert [s.name for s in full.stages()] == [s.name for s in small.stages()]
