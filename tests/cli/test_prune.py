"""``siamkit prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from siamkit import api

pytest.importorskip("torch_pruning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, values_of: Any) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.mark.slow
def test_the_table_shows_both_networks(cli: Any, run: Path) -> None:
    done = cli("prune", run, "--ratio", "0.4", "--finetune-epochs", "1", "--freeze-policy", "full")
    assert done.code == 0, done.err
    for word in ("parameters", "FLOPs per image", "latency", "recall@1", "EER", "threshold"):
        assert word in done.out
    assert f"new run: {run}-pruned" in done.out.replace("\n", "")
    assert "pruning: round 1 of 1" in done.err and "epoch 1/1" in done.err
    again = cli("prune", run, "--ratio", "0.4", "--finetune-epochs", "1", "--quiet", "--json")
    assert again.json["run_dir"] == f"{run}-pruned-2"
    assert again.json["schema"] == "siamkit.prune/1" and again.err == ""
    assert again.json["before"]["flops"] > again.json["after"]["flops"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ratio", "1.5"], "--ratio: must be a share of the network's operations, got 1.5"),
        (["--part", "half"], "--part: no such part"),
        (["--set", "head.name=linear"], "--head: cannot be changed by pruning"),
        (["--set", "train.seed=3"], "--seed: cannot be changed by pruning"),
        (["--ratio", "0.995"], "--ratio: the channels that can be removed do not make up"),
    ],
)
def test_wrong_flags_are_refused_by_their_names(
    cli: Any, run: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    done = cli("prune", run, "-o", tmp_path / "new", *flags)
    assert done.code == 2 and message in done.err, done.err
    assert not (tmp_path / "new").exists()


def test_the_missing_library_is_named(
    cli: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    done = cli("prune", run, "-o", tmp_path / "new")
    assert done.code == 2 and "pip install 'siamkit[prune]'" in done.err
