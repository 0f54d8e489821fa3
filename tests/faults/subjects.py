"""The subjects of the harness: tiny runs of every freeze policy, cached and live."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siamkit.config import yaml_text
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut

BACKBONE = "timm:test_resnet"
POLICIES: dict[str, dict[str, Any]] = {
    "bitfit": {},
    "freeze-all": {},
    "full": {},
    "gradual-unfreeze": {"every": 1},
    "lp-ft": {"probe": 1},
    "norm-only": {},
    "regex": {"patterns": [r"conv1\.0\.weight$"]},
    "stages": {"warmup": 1},
    "surgical": {},
    "unfreeze-blocks": {},
}
"""A freeze policy of every kind, with options that reach its last phase within three epochs."""


@dataclass(frozen=True)
class Subject:
    """A kind of run."""

    policy: str
    cached: bool

    @property
    def name(self) -> str:
        """The policy, and whether the output of the frozen part is cached or computed live."""
        return f"{self.policy}, {'cached' if self.cached else 'live'}"


SUBJECTS = [Subject(policy, cached) for policy in POLICIES for cached in (True, False)]


def make_images(folder: Path) -> Path:
    """Draw six classes of five tiny images."""
    rng = np.random.default_rng(0)
    for kind in range(6):
        (folder / f"class{kind}").mkdir(parents=True)
        for index in range(5):
            pixels = rng.integers(0, 90, (24, 24, 3)) + 25 * kind
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{kind}" / f"{index}.png")
    return folder


def write_config(subject: Subject, images: Path, file: Path) -> Path:
    """Write the config of a run that takes about a second."""
    values = {
        "data": {"path": str(images), "image_size": 24, "workers": 0, "views": 2},
        "backbone": {"name": BACKBONE, "pretrained": False},
        "head": {"name": "bnneck"},
        "loss": {"name": "proxy-anchor"},  # it has parameters of its own
        "freeze": {"name": subject.policy, **POLICIES[subject.policy]},
        # A kernel chosen by its speed could differ between two runs.
        "engine": {"cache": "always" if subject.cached else "off", "prefix": "eager"},
        "train": {"epochs": 3, "batch_size": 8, "images_per_class": 2, "device": "cpu"},
        "report": False,
    }
    file.write_text(yaml_text.dump(values))
    return file


def outcome(run: Path) -> dict[str, Any]:
    """Return the results of a run, to compare two runs; tensors as the hashes of their bytes."""
    saved = checkpoint.latest_intact(run / "checkpoints", strict=True)[0]
    # Nothing reads the optimizer of an earlier epoch that was the best, so it may stay damaged.
    best = checkpoint.load_network(run / "checkpoints" / str(saved.state["best_checkpoint"]))
    tensors = {
        **{f"last {name}": t for name, t in saved.model.items()},
        **{f"optimizer {name}": t for name, t in saved.optimizer.items()},
        **{f"best {name}": t for name, t in best.model.items()},
    }
    records = [
        json.loads((run / name).read_text()) for name in ("metrics.json", "calibration.json")
    ]
    held = HeldOut.load(RunDir(run), "val")
    assert held is not None
    for record in records:
        del record["sha256"]
    del records[0]["run_dir"]
    return {
        "tensors": {
            name: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()
            for name, t in tensors.items()
        },
        "progress": {key: saved.state[key] for key in ("epoch", "step", "history", "best_epoch")},
        "metrics": records[0],
        "calibration": records[1],
        "embeddings": [held.embeddings.tolist(), held.network, held.epoch, str(held.images)],
    }


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the keys at which two nested values differ."""
    found = []
    for key in sorted({*a, *b}):
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            found += differences(x, y, f"{prefix}{key}.")
        elif x != y:
            found.append(f"{prefix}{key}")
    return found
