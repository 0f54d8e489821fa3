"""What ``siamkit inspect`` shows: every phase of a run, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamkit.config import SAMPLE, RunConfig
from siamkit.data.splits import load_data
from siamkit.freezing.memory import probe_images, training_memory
from siamkit.freezing.phases import phases, status
from siamkit.interfaces import Phase
from siamkit.model.create import Weights
from siamkit.registry import Registry
from siamkit.training.build import Setup, build, uses_state
from siamkit.training.step import autocast


def inspect(
    config: RunConfig,
    registries: Mapping[str, Registry],
    *,
    history: Sequence[Mapping[str, float]] = (),
    weights: Weights = "file",
    parameters: bool = False,
) -> dict[str, Any]:
    """Return what ``siamkit inspect --json`` prints, without training anything.

    Pretrained weights are not loaded: no number here depends on them. A weights file is, to see
    that it fits.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        history: The metrics of the epochs that are over, for metric-driven policies.
        weights: ``none`` for a run, which keeps its own.
        parameters: Also list every parameter.
    """
    setup = _build(config, registries, weights)
    notices: list[str] = []
    found = phases(setup.policy, setup.stages, config.train.epochs, history, config.train.monitor)
    if setup.policy.metric_driven:
        notices.append(
            f"policy {config.freeze.name!r} follows {config.train.monitor}: the phases "
            "shown assume that it never stops improving"
        )
    notices += [note for phase in found if (note := _spoilt(setup, phase))]
    preprocessing = setup.net.backbone.preprocessing
    result = {
        "backbone": {
            "name": config.backbone.name,
            "parameters": _count(setup.net.backbone),
            "weights": "the run's own"
            if weights == "none"
            else _weights(config, registries, setup),
            "features": setup.net.backbone.embedding_dim,
            "image_size": list(preprocessing.size),
            "in_chans": preprocessing.channels,
        },
        "head": {"name": config.head.name, "parameters": _count(setup.net.head)},
        "embedding": {"dim": setup.net.embedding_dim, "normalized": config.head.normalize},
        "loss": {"name": config.loss.name, "parameters": _count(setup.loss)},
        "freeze": {"name": config.freeze.name, **config.freeze.options},
        "parameters": _count(setup.net) + _count(setup.loss),
        "batch_size": config.train.micro_batch or config.train.batch_size,
        "metric_driven": setup.policy.metric_driven,
        "phases": [_phase(setup, phase) for phase in found],
        "notices": notices,
    }
    if parameters:
        result["parameters_list"] = _parameters(setup, found)
    return result


def _spoilt(setup: Setup, phase: Phase) -> str | None:
    """Say where a few trainable parameters far below make backward run through everything."""
    for stage in setup.stages:
        trains = [name for name in stage.parameters if name in phase.plan.trainable]
        if not trains:
            continue
        if len(trains) == len(stage.parameters) or stage is setup.stages[-1]:
            return None
        return (
            f"epochs {phase.start_epoch + 1}-{phase.end_epoch}: only {len(trains)} of "
            f"{len(stage.parameters)} parameter tensors of {stage.name!r} train, but backward runs "
            "through everything above it, and activations are kept there"
        )
    return None


def _build(config: RunConfig, registries: Mapping[str, Registry], weights: Weights) -> Setup:
    """Build the run; only a loss with parameters of its own needs to know the data."""
    missing = (
        config.data.path != SAMPLE and weights == "file" and not Path(config.data.path).exists()
    )
    setup = build(config, registries, num_classes=2, weights=weights)
    if not (_count(setup.loss) or missing):
        return setup
    splits = load_data(
        config.data.path, val_fraction=config.data.val_fraction, seed=config.train.seed
    )
    return build(config, registries, len(splits.train.classes), weights=weights)


def _weights(config: RunConfig, registries: Mapping[str, Registry], setup: Setup) -> str:
    entry = registries["backbone"].get(config.backbone.name)
    if config.backbone.weights or config.backbone.pretrained is False or not entry.pretrained:
        return setup.weights
    return "pretrained (loaded by train, not by inspect)"


def _phase(setup: Setup, phase: Phase) -> dict[str, Any]:
    config = setup.config
    setup.controller.apply(phase.plan)
    rows = status(setup.stages, phase.plan, setup.controller.sizes)
    trainable = sum(row.trainable for row in rows)
    preprocessing = setup.net.backbone.preprocessing
    with autocast(setup.device, config.train.precision):
        memory = training_memory(
            setup.net,
            phase.plan,
            probe_images(preprocessing.channels, preprocessing.size, setup.device),
            config.train.micro_batch or config.train.batch_size,
            uses_state(config.optimizer),
            setup.loss,
        )
    return {
        "start_epoch": phase.start_epoch,
        "end_epoch": phase.end_epoch,
        "trainable_parameters": trainable,
        "trainable_share": trainable / sum(setup.controller.sizes.values()),
        "norm": phase.plan.norm,
        "stages": [
            {
                "name": row.name,
                "parameters": row.parameters,
                "trainable": row.trainable,
                "frozen": row.parameters - row.trainable,
                "norm": row.norm,
                "lr": config.optimizer.lr * row.lr_mult,
                "needs_backward": row.needs_backward,
            }
            for row in rows
        ],
        "memory": memory.to_json(),
    }


def _parameters(setup: Setup, found: Sequence[Phase]) -> list[dict[str, Any]]:
    stage_of = {name: stage.name for stage in setup.stages for name in stage.parameters}
    rows = [
        {
            "name": name,
            "shape": list(parameter.shape),
            "numel": parameter.numel(),
            "stage": stage_of[name],
            "trainable": [name in phase.plan.trainable for phase in found],
        }
        for name, parameter in setup.net.named_parameters()
    ]
    own = [
        {
            "name": f"loss.{name}",
            "shape": list(parameter.shape),
            "numel": parameter.numel(),
            "stage": "loss",
            "trainable": [True for _ in found],
        }
        for name, parameter in setup.loss.named_parameters()
    ]
    return rows + own


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
