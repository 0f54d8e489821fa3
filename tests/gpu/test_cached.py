"""Cached and live runs on a GPU learn the same, wherever the cached rows lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siamkit.engine import sources

POLICIES = {
    "freeze-all": ({"name": "freeze-all"}, 2),
    "stages": ({"name": "stages", "warmup": 1}, 3),
    "gradual-unfreeze": ({"name": "gradual-unfreeze", "every": 1}, 4),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_cached_and_live_runs_learn_the_same(train: Any, different: Any, policy: str) -> None:
    freeze, epochs = POLICIES[policy]
    common = {"freeze": freeze, "data": {"views": 2}, "train": {"epochs": epochs}}
    live = train("live", engine={"cache": "off"}, **common)
    cached = train("cached", engine={"cache": "always"}, **common)
    assert {data["mode"] for data in cached.of("engine")} == {"cached"}
    assert {data["mode"] for data in live.of("engine")} <= {"live", "whole"}
    assert cached.losses == pytest.approx(live.losses, rel=1e-3, abs=1e-5)
    weights = [
        {n: t for n, t in run.tensors.items() if not n.startswith("o/")} for run in (cached, live)
    ]
    assert not different(*weights, by=5e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_so_they_do_in_half_precision(train: Any, precision: str) -> None:
    common = {"freeze": {"name": "freeze-all"}, "train": {"precision": precision, "epochs": 2}}
    live = train("live", engine={"cache": "off"}, data={"views": 1}, **common)
    cached = train("cached", engine={"cache": "always"}, data={"views": 1}, **common)
    assert cached.losses == pytest.approx(live.losses, rel=0.05, abs=0.02)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of devices that rows were copied to."""
    found: list[str] = []

    class Noted(sources.ResidentRows):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.append(self._rows.device.type)

    monkeypatch.setattr(sources, "ResidentRows", Noted)
    return found


@pytest.mark.parametrize("policy", ["freeze-all", "stages"])
def test_rows_on_the_device_and_on_the_disk_give_the_same_bits(
    train: Any,
    different: Any,
    kept: list[str],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    freeze, epochs = POLICIES[policy]
    common = {"freeze": freeze, "data": {"views": 2}, "train": {"epochs": epochs}}

    def run(name: str, stays: bool) -> Any:
        kept.clear()
        monkeypatch.setattr(sources, "fits", lambda nbytes, free: stays)
        return train(name, engine={"cache": "always"}, **common)

    stays = run("stays", True)
    assert set(kept) == {device.type}
    read = run("read", False)
    assert not kept
    # Otherwise the engine noticed a difference, and both runs fell back to the whole network.
    for each in (stays, read):
        assert {data["mode"] for data in each.of("engine")} == {"cached"}
    assert stays.losses == read.losses
    assert not different(stays.tensors, read.tensors)


def test_features_that_fit_stay_on_the_device(train: Any, cuda: Any, kept: list[str]) -> None:
    train(engine={"cache": "always"}, freeze={"name": "freeze-all"}, data={"views": 1})
    assert kept and set(kept) == {"cuda"}
