"""The configuration key of each flag, and the flag of each key."""

from __future__ import annotations

KEYS = {
    "data": "data.path",
    "root": "data.root",
    "path_column": "data.path_column",
    "label_column": "data.label_column",
    "backbone": "backbone.name",
    "pretrained": "backbone.pretrained",
    "weights": "backbone.weights",
    "head": "head.name",
    "image_size": "data.image_size",
    "in_chans": "data.in_chans",
    "freeze_policy": "freeze.name",
    "loss": "loss.name",
    "optimizer": "optimizer.name",
    "scheduler": "scheduler.name",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "micro_batch": "train.micro_batch",
    "accumulation": "train.accumulation",
    "lr": "optimizer.lr",
    "seed": "train.seed",
    "device": "train.device",
    "threads": "train.threads",
    "checkpoint_every": "train.checkpoint_every",
    "keep": "train.keep",
    "augment": "data.augment.preset",
    "views": "data.views",
    "cache": "engine.cache",
    "far": "calibration.far",
    "run_dir": "run_dir",
    "report": "report",
    "track": "track",
    "workers": "data.workers",
}
"""The configuration key that each flag sets."""

_FLAGS = {key: name for name, key in KEYS.items()}


def dashed(name: str) -> str:
    """Return the name of a parameter as it is typed in a flag."""
    return name.replace("_", "-")


def flag_of(key: str) -> str:
    """Return the flag that sets a config key; without such a flag, the key itself."""
    name = _FLAGS.get(key) or _FLAGS.get(key.partition(".")[0])  # such as track.0
    if name is None:
        return key
    return "DATA" if name == "data" else f"--{dashed(name)}"
