"""The requirements of a run, checked before it starts or is resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from siamkit.config import AUTO, RunConfig, named_head
from siamkit.data.splits import Splits
from siamkit.errors import CheckpointError, ConfigError, ResourceError
from siamkit.model.default_head import WITHOUT, WITHOUT_CLASSES, fallback_text
from siamkit.model.undisturbed import undisturbed
from siamkit.model.unit import unit
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.training.batching import epoch_steps, part_of
from siamkit.training.build import Setup
from siamkit.training.optimizer import state_size
from siamkit.training.step import moved
from siamkit.training.tensors import model_tensors


def require_one_process() -> None:
    """Refuse a launcher of several processes, each of which would train the whole run on its own.

    Raises:
        ConfigError: A launcher such as ``torchrun`` started this process as one of several.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count.isdecimal() and int(count) > 1:
        raise ConfigError(
            "a run is trained by one process, but a launcher started several",
            where="the environment variable WORLD_SIZE",
            got=count,
            allowed="1",
            hint="start it without torchrun, or train in a loop of your own with "
            "siamkit.freezing.FreezeController, which works with DistributedDataParallel",
        )


def for_data(config: RunConfig, splits: Splits, registries: Mapping[str, Registry]) -> RunConfig:
    """Return the config with the choices that depend on the kind of data.

    They are the metric that picks the best epoch and, for pairs and triplets, the head.

    Args:
        config: A resolved config.
        splits: The data.
        registries: The registry of each component section.

    Raises:
        ConfigError: The configured metric is not measured on this kind of data.
    """
    has_tuples = splits.val.tuples is not None
    monitor = config.train.monitor or ("auc" if has_tuples else config.train.monitored)
    if has_tuples != (monitor == "auc"):
        kind = "pairs or triplets" if has_tuples else "labelled images"
        raise ConfigError(
            f"is not measured on {kind}",
            where="train.monitor",
            got=monitor,
            allowed="auc" if has_tuples else "recall@1, map@r",
        )
    train = config.train.model_copy(update={"monitor": monitor})
    config = config.model_copy(update={"train": train})
    return without_classes(config, registries) if has_tuples else config


def head_notices(config: RunConfig, has_tuples: bool) -> tuple[str, ...]:
    """Return the notice about the head of a run on pairs or triplets, if the config names none."""
    open_head = has_tuples and config.head.name == AUTO
    return fallback_text(WITHOUT_CLASSES) if open_head else ()


def without_classes(config: RunConfig, registries: Mapping[str, Registry]) -> RunConfig:
    """Return the config of a run on pairs or triplets, with the default head for these.

    Without classes, no head can be computed in closed form. A head that the config names stays.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
    """
    if config.head.name != AUTO:
        return config
    head = named_head(WITHOUT, config.head, registries["head"])
    return config.model_copy(update={"head": head})


def require_loss(setup: Setup, splits: Splits) -> None:
    """Try the loss on a batch of the run's labels, pairs or triplets, before the training starts.

    Raises:
        ConfigError: The loss cannot use the kind of tuples in the data, or a batch of this size.
        PluginError: The loss fails.
    """
    tuples = splits.train.tuples
    if tuples is None:
        labels = splits.train.labels
        part = epoch_steps(setup.config.train, splits.train, epoch=0)[0][0]
        known, given = None, torch.tensor([labels[i] for i in part.images], device=setup.device)
    else:
        part = part_of(tuples, range(min(len(tuples), 2)))
        assert part.tuples is not None
        known, given = moved(part.tuples, setup.device), None
    views = 1 + (setup.loss.second_view and given is not None)
    with undisturbed(setup.loss):
        rows = torch.randn(views * len(part.images), setup.net.training_dim)
        embeddings = unit(rows).to(setup.device).requires_grad_()
        setup.loss(embeddings, None if given is None else given.repeat(views), known)


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: RunDir) -> None:
    """Compare the facts that a resumed run must share with the run that it continues.

    Raises:
        CheckpointError: A fact changed; the message names it.
    """
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise CheckpointError(
            f"cannot be resumed: {', '.join(changed)} changed since the run was saved",
            where=str(run_dir.path),
            hint="start a new run, or restore what changed",
        )


def require_space(path: Path, setup: Setup, there: int = 0) -> None:
    """Refuse a run whose checkpoints will not fit on the disk, before the training starts.

    Args:
        path: The run's directory.
        setup: The parts of the run.
        there: The number of checkpoints of the run that are on the disk already.

    Raises:
        ResourceError: The disk has too little free space.
    """
    weights = sum(t.numel() * t.element_size() for t in model_tensors(setup).values())
    state = state_size(setup.optimizer) * weights
    at_once = setup.config.train.keep_checkpoints + 2  # the best, and the one being written
    needed = max(at_once - there, 1) * (weights + state)
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"not enough disk space for checkpoints: {needed / 1e9:.1f} GB needed, "
            f"{free / 1e9:.1f} GB free",
            where=str(path),
            hint="free some space" + ("" if there else ", or choose a place on another disk"),
        )


def require_best(saved: SavedCheckpoint) -> None:
    """Check the checkpoint of the best epoch, if there is one.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
    """
    best = saved.state["best_checkpoint"]
    if best not in (None, saved.name):
        checkpoint.load_network(saved.folder.with_name(best))
