"""The JSON objects that a run reports at its start and at its end."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from siamkit.runs.held_out import HeldOut
from siamkit.spelling import settings
from siamkit.training.build import Setup
from siamkit.training.loading import TEST
from siamkit.training.loop import Trainer
from siamkit.training.state import Metrics
from siamkit.version import versions

Result = dict[str, Any]


def start_data(trainer: Trainer) -> dict[str, Any]:
    """Return the data of the event ``run_start``."""
    config, splits = trainer.setup.config, trainer.splits
    notices = [*splits.notices, *trainer.notices]
    if trainer.setup.weights.startswith("random"):
        notices.append(
            "the backbone starts from random weights, so a frozen part of it computes useless "
            "features: train all of it, and its norm statistics, with "
            + settings({"freeze.name": "full", "freeze.norm": "train"})
        )
    size = config.train.pass_size
    if config.train.accumulation == "naive" and size < config.train.batch_size:
        notices.append(
            f"naive accumulation over micro-batches of {size} images: positives and negatives come "
            "from the same micro-batch only, so the result differs from a batch of the full size"
        )
    return {
        "run_dir": str(trainer.run_dir.path),
        "config": config.to_values(),
        "weights": trainer.setup.weights,
        "lr_find": trainer.state.lr_find,
        "recipe": trainer.state.recipe,
        "data": {
            "how": splits.how,
            "train_images": len(splits.train),
            "train_classes": len(splits.train.classes),
            "val_images": len(splits.val),
            "val_classes": len(splits.val.classes),
            "train": str(splits.train),
            "val": str(splits.val),
            "test": None if splits.test is None else str(splits.test),
        },
        "notices": notices,
        "versions": _versions(trainer.state.identity),
        "epochs": config.train.epochs,
        "steps_per_epoch": trainer.epoch.steps_per_epoch,
        "images_per_epoch": trainer.images_per_epoch,
        "device": str(trainer.setup.device),
        "finished_epochs": trainer.state.epoch,
        "finished_steps": trainer.state.step,
    }


def _versions(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the libraries, plugins and platform of a run."""
    plugins = {k.removeprefix("plugin "): v for k, v in identity.items() if k.startswith("plugin ")}
    return {
        **versions(),
        **plugins,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def run_result(trainer: Trainer, held_out: Mapping[str, HeldOut]) -> Result:
    """Return the result object of a run, without its calibration."""
    setup, state, run_dir = trainer.setup, trainer.state, trainer.run_dir
    names = tuple(state.untrained)
    epoch = state.best_epoch or 0
    best = {name: state.best[name] for name in names}
    metrics: dict[str, Any] = {
        "untrained": state.untrained,
        "best": {**best, "epoch": epoch + 1},
        "last": {name: state.last[name] for name in names},
    }
    if TEST in held_out:
        # Test classes played no part in choosing the best epoch.
        scored = trainer.scorer.score(TEST, held_out[TEST].embeddings)
        metrics["test"] = {"untrained": state.untrained_test, "best": scored}
    return {
        "run_dir": str(run_dir.path),
        "epochs": len(state.history),
        "phases": _phase_rows(setup, state.history),
        "metrics": metrics,
        "stopped_early": state.stopped_early,
        "history": state.history,
    }


def _phase_rows(setup: Setup, history: Sequence[Metrics]) -> list[dict[str, int]]:
    """Return the phases that the run went through, for the result object."""
    sizes = setup.controller.sizes
    epochs = len(history)
    return [
        {
            "first_epoch": phase.start_epoch + 1,
            "last_epoch": min(phase.end_epoch, epochs),
            "trainable_parameters": sum(sizes[name] for name in phase.plan.trainable),
        }
        for phase in setup.schedule.phases(history)
        if phase.start_epoch < epochs
    ]
