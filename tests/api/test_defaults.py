"""The values of the arguments that are left out, of every public function."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from siamkit import api

_REGISTERED = {"summary": "", "replace": False}
# All other arguments are required, or None.
DEFAULTS: dict[str, dict[str, Any]] = {
    "any_embedder": {"which": "best", "device": "auto"},
    "build_index": {"which": "best", "kind": "exact", "batch_size": 64, "device": "auto",
                    "force": False},
    "calibrate": {"seed": 0, "device": "auto"},
    "check_data": {"seed": 0, "device": "auto"},
    "compare": {"folds": 3, "seeds": 3, "metric": "recall@1", "equal": "images", "jobs": 1,
                "listeners": ()},
    "create_model": {"backbone": "resnet50", "head": "residual", "in_chans": 3},
    "embed": {"which": "best", "batch_size": 64, "device": "auto", "force": False},
    "evaluate": {"which": "best", "seed": 0, "device": "auto"},
    "export": {"format": "onnx", "force": False, "seed": 0},
    "find_lr": {"steps": 100, "lowest": 1e-7, "highest": 10.0},
    "fit": {"listeners": ()},
    "inspect": {"parameters": False, "measure": False},
    "load_config": {"where": ""},
    "load_embedder": {"which": "best", "device": "auto", "kernel": "auto"},
    "load_index": {"verify": True},
    "load_model": {"which": "best"},
    "phases": {"policy": "stages", "epochs": 10},
    "prune": {"ratio": 0.5, "part": "all", "iterations": 1, "listeners": ()},
    "push_to_hub": {"create_pr": False, "message": "Add model"},
    "register_backbone": {**_REGISTERED, "pretrained": False},
    **{
        f"register_{kind}": _REGISTERED
        for kind in ("freeze_policy", "head", "loss", "optimizer", "scheduler", "tracker")
    },
    "resume": {"listeners": (), "strict": False},
    "save_pretrained": {"force": False},
    "search": {"k": 10, "exact": False, "device": "auto"},
    "show_data": {"images": 8, "draws": 5},
    "verify_pairs": {"device": "auto"},
}  # fmt: skip
FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_that_is_left_out_has_this_value(name: str) -> None:
    parameters = inspect.signature(getattr(api, name)).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    found = {n: value for n, value in given.items() if value is not None}
    assert found == DEFAULTS.get(name, {})
    assert {n: type(v) for n, v in found.items()} == {
        n: type(v) for n, v in DEFAULTS.get(name, {}).items()
    }, "0 is no False"
