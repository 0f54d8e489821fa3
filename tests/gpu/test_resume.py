"""A run on a GPU that is killed and resumed is equal to one that was never interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from siamkit.api import registries

ROUNDING = 1e-2
"""The largest relative difference of tensors after a few steps whose sums had no fixed order."""

SECTIONS: dict[str, dict[str, Any]] = {
    "cached head": {
        "freeze": {"name": "freeze-all"},
        "head": {"name": "bnneck"},
        "engine": {"cache": "always"},
        "data": {"views": 2},
        "train": {"epochs": 3},
    },
    "cached stages": {
        "freeze": {"name": "stages", "warmup": 1},
        "engine": {"cache": "always"},
        "data": {"views": 2},
        "train": {"epochs": 3},
    },
    "live, with stochastic depth": {
        "backbone": {"drop_path_rate": 0.3},
        "freeze": {"name": "stages", "warmup": 1},
        "loss": {"name": "proxy-anchor"},
        "engine": {"cache": "off"},
        "train": {"epochs": 3},
    },
    "fp16": {
        "freeze": {"name": "stages", "warmup": 1},
        "engine": {"cache": "always"},
        "data": {"views": 2},
        "train": {"epochs": 3, "precision": "fp16"},
    },
}


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize(("event", "count"), [("step", 2), ("checkpoint", 3)])
def test_a_resumed_run_is_bit_equal(
    train: Any, train_interrupted: Any, different: Any, kind: str, event: str, count: int
) -> None:
    """The frozen part, which holds the max pooling, has no backward here."""
    sections = {name: dict(section) for name, section in SECTIONS[kind].items()}
    whole = train("whole", **sections)
    resumed = train_interrupted(event, count, **sections)
    assert not different(resumed.tensors, whole.tensors)
    assert resumed.result["history"] == whole.result["history"]


@pytest.mark.parametrize("name", sorted(entry.name for entry in registries()["optimizer"]))
def test_so_it_is_with_every_optimizer_if_all_stages_train(
    train: Any, train_interrupted: Any, different: Any, device: Any, name: str
) -> None:
    """The backward of max pooling may add in any order on CUDA."""
    sections: dict[str, Any] = {
        "freeze": {"name": "full"},
        "optimizer": {"name": name, "lr": 1e-3},
        "train": {"epochs": 2},
    }
    whole = train("whole", **sections)
    resumed = train_interrupted("checkpoint", 2, **sections)
    by = ROUNDING if device.type == "cuda" else 0.0
    assert not different(resumed.tensors, whole.tensors, by=by)
