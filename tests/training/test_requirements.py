"""What a run is refused for before it starts, decided on made-up parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit import api
from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.training import requirements
from siamkit.training.requirements import (
    for_data,
    require_best,
    require_one_process,
    require_same,
    require_space,
)


@pytest.mark.parametrize(
    ("count", "refused"), [(None, False), ("1", False), ("many", False), ("2", True)]
)
def test_only_one_of_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: str | None, refused: bool
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if count is not None:
        monkeypatch.setenv("WORLD_SIZE", count)
    if not refused:
        require_one_process()
        return
    with pytest.raises(ConfigError, match=r"WORLD_SIZE: .*but a launcher started several, got '2'"):
        require_one_process()


@pytest.mark.parametrize(
    ("tuples", "monitor", "found"),
    [
        (False, None, "recall@1"), (False, "map@r", "map@r"), (True, None, "auc"),
        (True, "auc", "auc"), (False, "auc", "labelled images"),
        (True, "recall@1", "pairs or triplets"),
    ],
)  # fmt: skip
def test_the_best_epoch_is_picked_by_a_metric_of_this_kind_of_data(
    tuples: bool, monitor: str | None, found: str
) -> None:
    config = api.load_config({"train": {} if monitor is None else {"monitor": monitor}})
    splits: Any = SimpleNamespace(val=SimpleNamespace(tuples=() if tuples else None))
    if "@" in found or found == "auc":
        assert for_data(config, splits, api.registries()).train.monitor == found
        return
    with pytest.raises(ConfigError, match=f"train.monitor: is not measured on {found}"):
        for_data(config, splits, api.registries())


@pytest.mark.parametrize(("there", "needed"), [(0, 15_000), (1, 12_000), (4, 3_000), (9, 3_000)])
def test_the_checkpoints_that_are_still_to_come_must_fit_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, needed: int
) -> None:
    """Three are kept beside the best and the one that is written. Each has 3,000 bytes."""
    monkeypatch.setattr(requirements, "model_tensors", lambda _: {"w": torch.zeros(250)})
    monkeypatch.setattr(requirements, "state_size", lambda _: 2)
    train = SimpleNamespace(keep_checkpoints=3)
    setup: Any = SimpleNamespace(optimizer=None, config=SimpleNamespace(train=train))
    for free in (needed, needed - 1):
        disk = SimpleNamespace(free=free)
        monkeypatch.setattr(requirements.shutil, "disk_usage", lambda path, disk=disk: disk)  # type: ignore[attr-defined]
        if free == needed:
            require_space(tmp_path / "still" / "missing", setup, there)
            continue
        with pytest.raises(ResourceError, match="not enough disk space") as caught:
            require_space(tmp_path / "still" / "missing", setup, there)
        assert ("another disk" in str(caught.value.hint)) is (there == 0)


def test_all_that_changed_since_a_run_was_saved_is_named(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(path=tmp_path)
    require_same({"a": 1}, {"a": 1}, run)
    with pytest.raises(CheckpointError, match="cannot be resumed: a, b, c changed since the run"):
        require_same({"c": 1, "a": 1, "same": 0}, {"b": 2, "a": 2, "same": 0}, run)


def test_the_network_of_the_best_epoch_is_read_unless_it_is_the_saved_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(requirements.checkpoint, "load_network", read.append)
    for best in (None, "last", "best"):
        saved: Any = SimpleNamespace(
            state={"best_checkpoint": best}, name="last", folder=tmp_path / "last"
        )
        require_best(saved)
    assert read == [tmp_path / "best"]
