"""Pruning: turns a run into a run with a smaller backbone, and fine-tunes that.

The new run is written in one step, before its first step of training. So a kill while channels are
chosen leaves nothing, and a kill later leaves a run that resumes like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamkit.compress.graph import torch_pruning
from siamkit.compress.latency import speeds
from siamkit.compress.rounds import (
    Progress,
    Source,
    Wish,
    frozen_notice,
    ratio_notice,
    trained,
    write_pruned,
)
from siamkit.compress.shrink import Shrunk, operations
from siamkit.config import RunConfig
from siamkit.data.load import load_data
from siamkit.errors import CheckpointError
from siamkit.freezing.memory import probe_images
from siamkit.inference.export.quality import EER, MAP, RETRIEVAL, metrics_of
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.runs.open import OpenRun
from siamkit.training.build import Setup
from siamkit.training.fit import resume
from siamkit.training.loading import TEST, VAL, load_sets
from siamkit.training.state import heads_text
from siamkit.training.validation import MOST, Embeddings, evaluator_of

Result = dict[str, Any]

_CHOSE = "the quality is that on the images that chose the best epoch: use a test split for more"


def prune(
    run: OpenRun,
    target: Path,
    config: RunConfig,
    wish: Wish,
    listeners: Sequence[Listener] = (),
    observers: Sequence[Listener] = (),
    progress: Progress = lambda step, done, total: None,
) -> Result:
    """Prune the best epoch's network of a run, and return the result of ``siamkit prune --json``.

    Args:
        run: The run, which is only read.
        target: The directory of the new run.
        config: The config of the new run.
        wish: How to prune.
        listeners: Called with every event of the fine-tuning.
        observers: Plugins, called with every event of the fine-tuning.
        progress: Called when a round begins.

    Raises:
        ConfigError: The network cannot be pruned, or not that far; nothing was written.
        SiamkitError: The fine-tuning failed.
    """
    torch_pruning()
    RunDir(target).require_free()
    tensors = run.checkpoint("best").model
    splits = load_data(config.data, config.train.seed)
    run.require_images("val", splits.val)
    if splits.test:
        run.require_images("test", splits.test)
    source = Source(run, trained(run.config, run.registries, splits, tensors), splits)
    rounds = write_pruned(source, target, config, wish, listeners, progress)
    resume(target, run.registries, listeners, observers)
    pruned = OpenRun(target, lambda: run.registries)
    after = trained(pruned.config, run.registries, splits, pruned.checkpoint("best").model)
    compared = _compared(source, pruned, after)
    gone = 1 - compared["after"]["flops"] / compared["before"]["flops"]
    texts = (
        None if splits.test else _CHOSE,
        ratio_notice(wish, gone),
        frozen_notice(rounds, config.train.epochs),
        heads_text(pruned.best.state["heads"], pruned.config.train.monitored),
    )
    return {
        "run_dir": str(target),
        "source": str(run.path),
        "ratio": wish.ratio,
        "part": wish.part,
        "iterations": wish.iterations,
        "epochs": config.train.epochs,
        "importance": rounds[-1].importance,
        "images": f"the run's {'test' if splits.test else 'validation'} images",
        "device": str(after.device),
        **compared,
        "groups": _groups(rounds),
        "notices": [text for text in texts if text is not None],
    }


def _compared(source: Source, pruned: OpenRun, after: Setup) -> dict[str, dict[str, Any]]:
    """Return the size, the speed and the quality of both networks."""
    splits, before = source.splits, source.setup
    part, images = (TEST, splits.test) if splits.test else (VAL, splits.val)
    preprocessing = before.net.preprocessing
    image = probe_images(preprocessing.channels, preprocessing.size, before.device)[:1]
    fast = speeds({"before": before.net, "after": after.net}, image)
    rows = {}
    for name, run, setup in (("before", source.run, before), ("after", pruned, after)):
        kept = run.held_out(part)
        embeddings = _embedded(source, setup, part) if kept is None else kept.embeddings
        found = metrics_of(embeddings, images, None)
        rows[name] = {
            "parameters": sum(p.numel() for p in setup.net.parameters()),
            "flops": operations(setup.net, setup.device),
            **fast[name],
            **{name: found.get(name) for name in (RETRIEVAL, MAP, EER)},
            "threshold": _threshold(run),
        }
    return rows


def _embedded(source: Source, setup: Setup, part: str) -> Embeddings:
    loaded = load_sets(setup, source.splits)[part]
    with loaded.source:
        size = min(setup.config.train.pass_size, MOST)
        return evaluator_of(setup, loaded.images).embed(loaded.source, setup.net, size)


def _threshold(run: OpenRun) -> float | None:
    try:
        return run.calibration().threshold
    except CheckpointError:
        return None


def _groups(rounds: Sequence[Shrunk]) -> list[dict[str, Any]]:
    """Return, for each pruning group, the channels before the first round and after the last."""
    first, last = rounds[0].kept, rounds[-1].kept
    return [
        {"name": name, "before": first[name][0], "after": last[name][1]}
        for name in first
        if name in last
    ]
