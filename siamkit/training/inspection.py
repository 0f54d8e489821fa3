"""Inspection: describes every phase of a run without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamkit.config import SAMPLE, RunConfig
from siamkit.data.load import load_data
from siamkit.data.opening import names_tuples
from siamkit.engine.boundary import find_boundaries
from siamkit.engine.cutting import Cut, first_exact_cut
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.flops import count_flops
from siamkit.engine.settings import Reports
from siamkit.freezing.memory import probe_images
from siamkit.freezing.peak import Forward
from siamkit.freezing.schedule import spans, status
from siamkit.guard import attributing
from siamkit.interfaces import Phase, Stage
from siamkit.model.create import Weights
from siamkit.model.device import one_thread, using_threads
from siamkit.model.names import named_parameters
from siamkit.model.weights import load_net_tensors
from siamkit.registry import Registry
from siamkit.training.batching import epoch_steps
from siamkit.training.build import Setup, build, build_for
from siamkit.training.exactness import obstacle
from siamkit.training.fitting import fitting_pass
from siamkit.training.forecast import forecast
from siamkit.training.loading import decider_of, load_sets
from siamkit.training.quantize import INT8, forecast_of_int8
from siamkit.training.requirements import head_notices, without_classes
from siamkit.training.step_memory import predictor
from siamkit.words import plural

Progress = Callable[[str, int, int], None]
"""Receives the name of a step, the number of finished phases, and the number of all phases."""


def _silent(_step: str, _done: int, _total: int) -> None:
    """Show no progress."""


def inspect(
    config: RunConfig,
    registries: Mapping[str, Registry],
    *,
    history: Sequence[Mapping[str, float]] = (),
    weights: Weights = "file",
    tensors: Mapping[str, Tensor] | None = None,
    parameters: bool = False,
    measure: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the result object of ``siamkit inspect --json``, without training anything.

    Pretrained weights are not loaded, because no number here depends on them. A weights file is
    loaded, to check that it fits. Measuring loads all weights, because cached features depend on
    them.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        history: The metrics of the finished epochs, for metric-driven policies.
        weights: The backbone weights to load; ``none`` for a run, which has its own.
        tensors: The network's tensors, for a run whose network cannot run without them, because
            one of them is the graph of its int8 part.
        parameters: Whether to list every parameter too.
        measure: Whether to time each phase on the data too, and report how the engine would run it.
        progress: Called before each phase with the name of a step, the number of finished phases,
            and the number of all phases.
    """
    setup = _build(config, registries, "all" if measure else weights)
    if tensors is not None:
        load_net_tensors(setup.net, tensors, "the run's checkpoint")
    with using_threads(config.train.threads), attributing(setup.plugins):
        rows, notices = _inspected(setup, history, measure, progress or _silent)
    preprocessing = setup.net.preprocessing
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
        "head": {
            "name": setup.config.head.name,
            "parameters": _count(setup.net.head),
            "computed": setup.net.head.computed,
        },
        "embedding": {"dim": setup.net.embedding_dim, "normalized": config.head.normalize},
        "loss": {"name": config.loss.name, "parameters": _count(setup.loss)},
        "freeze": {"name": config.freeze.name, **config.freeze.options},
        "parameters": _count(setup.net) + _count(setup.loss),
        "batch_size": config.train.batch_size,
        "metric_driven": setup.schedule.policy.metric_driven,
        "phases": rows,
        "notices": notices,
    }
    if parameters:
        result["parameters_list"] = _parameters(setup, setup.schedule.phases(history))
    return result


def _inspected(
    setup: Setup, history: Sequence[Mapping[str, float]], measure: bool, progress: Progress
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the description of each phase, and notices."""
    notices = [*setup.notices, *forecast(setup)] if not history else []
    if setup.net.quantized is not None:
        notices.append(setup.net.quantized.sentence)
    elif setup.config.engine.prefix == INT8:
        notices.append(forecast_of_int8(setup))
    phases = setup.schedule.phases(history)
    if setup.schedule.policy.metric_driven:
        notices.append(
            f"policy {setup.config.freeze.name!r} unfreezes depending on {setup.schedule.monitor}, "
            "which is known for finished epochs only: later phases are a forecast"
        )
    rows = []
    with one_thread():  # a few images at a time
        for number, phase in enumerate(phases):
            progress("inspecting", number, len(phases))
            rows.append(_phase(setup, phase))
    notices += [
        note
        for phase, row in zip(phases, rows, strict=True)
        if (note := _spoilt(setup, phase, row["boundary"]))
    ]
    if measure:
        measured = measurements(setup, phases, notices.append, progress)
        for row, record in zip(rows, measured, strict=True):
            row["measured"] = record
    return rows, notices


def _spoilt(setup: Setup, phase: Phase, boundary: Mapping[str, Any] | None) -> str | None:
    """Return a notice if backward runs deep because an early stage trains in part; else None."""
    for stage in setup.schedule.stages:
        trains = [name for name in stage.parameters if name in phase.plan.trainable]
        if not trains:
            continue
        if len(trains) == len(stage.parameters) or stage is setup.schedule.stages[-1]:
            return None
        cached = f"only the part up to {boundary['name']!r}" if boundary else "no part"
        return (
            f"epochs {phase.start_epoch + 1}-{phase.end_epoch}: only {len(trains)} of "
            f"{plural(len(stage.parameters), 'parameter tensor')} of {stage.name!r} train, but "
            "backward runs through all later stages and stores their activations, and "
            f"{cached} of the network can be cached"
        )
    return None


def _build(config: RunConfig, registries: Mapping[str, Registry], weights: Weights) -> Setup:
    """Build the parts of the run. Only a loss with parameters needs the number of classes."""
    about_head = head_notices(config, names_tuples(config.data))
    if names_tuples(config.data):
        config = without_classes(config, registries)
    missing = (
        config.data.path != SAMPLE and weights == "file" and not Path(config.data.path).exists()
    )
    labelled = not names_tuples(config.data)
    setup = build(config, registries, num_classes=2, labelled=labelled, weights=weights)
    if _count(setup.loss) and not missing:
        splits = load_data(config.data, config.train.seed)
        setup = build_for(splits, config, registries, weights=weights)
    return replace(setup, notices=(*about_head, *setup.notices))


def _weights(config: RunConfig, registries: Mapping[str, Registry], setup: Setup) -> str:
    entry = registries["backbone"].get(config.backbone.name)
    if config.backbone.weights or config.backbone.pretrained is False or not entry.pretrained:
        return setup.weights
    return "pretrained (loaded by train, not by inspect)"


def _phase(setup: Setup, phase: Phase) -> dict[str, Any]:
    config = setup.config
    setup.controller.apply(phase.plan)
    rows = status(setup.schedule.stages, phase.plan, setup.controller.sizes)
    trainable = sum(row.trainable for row in rows)
    auto = config.optimizer.lr == "auto"
    preprocessing = setup.net.preprocessing
    images = probe_images(preprocessing.channels, preprocessing.size, setup.device)
    boundaries = find_boundaries(setup.net, setup.schedule.stages, phase.plan)
    parts, rejected_boundaries = first_exact_cut(setup.net, boundaries, images[:3])
    inside = frozenset(parts.boundary.units if parts else ())
    return {
        "first_epoch": phase.start_epoch + 1,
        "last_epoch": phase.end_epoch,
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
                "lr": None if auto else config.optimizer.rate * row.lr_mult,
                "lr_mult": row.lr_mult,
                "needs_backward": row.needs_backward,
                "in_prefix": _share(stage, inside),
            }
            for stage, row in zip(setup.schedule.stages, rows, strict=True)
        ],
        "boundary": _boundary(setup, parts, images) if parts else None,
        "rejected_boundaries": rejected_boundaries,
        "flops": count_flops(setup.net, parts, images[:2]).to_json(),
        "memory": _memory(setup, phase, parts, images),
    }


def _memory(setup: Setup, phase: Phase, parts: Cut | None, images: Tensor) -> dict[str, Any] | None:
    """Return the predicted memory of a step; None if the loss cannot be tried.

    ``pass_size`` is the number of images in a forward pass, and ``peak_from_cache`` the peak if the
    phase trains from cached features; None if it cannot.
    """
    size = setup.config.train.pass_size
    if setup.config.train.micro_batch == "auto" and not obstacle(setup.controller, phase.plan):
        fit = fitting_pass(setup)
        size = fit.images if fit else size
    memory = predictor(setup)(size)
    if memory is None:
        return None
    cached = None
    if parts is not None:
        with torch.no_grad():
            rows = parts.prefix(images[:1])
        cached = predictor(setup, Forward(parts.suffix, rows))(size)
    return {
        **memory.to_json(),
        "pass_size": size,
        "peak_from_cache": None if cached is None else cached.peak,
    }


def _share(stage: Stage, inside: frozenset[str]) -> str:
    """Return how much of a stage lies in the prefix: ``all``, ``part`` or ``none``."""
    units = [unit.name for unit in stage.blocks or (stage,)]
    count = sum(name in inside for name in units)
    return "all" if count == len(units) else "part" if count else "none"


def _boundary(setup: Setup, cut: Cut, images: Tensor) -> dict[str, Any]:
    """Return the end of the prefix, and the shape and size of its output per image."""
    boundary, config = cut.boundary, setup.config.engine
    dtype = "float32" if boundary.is_features else config.dtype
    with torch.no_grad():
        shape = cut.prefix(images[:1]).shape[1:]
    return {
        "name": boundary.name,
        "module": boundary.module,
        "shape": list(shape),
        "dtype": dtype,
        "row_bytes": shape.numel() * getattr(torch, dtype).itemsize,
    }


def measurements(
    setup: Setup,
    phases: Sequence[Phase],
    notify: Callable[[str], None],
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Return the engine's measurements and decision at the start of each phase, as JSON values.

    Args:
        setup: The parts of the run, with all weights.
        phases: The phases of the run.
        notify: Called with the text of each notice.
        progress: As for :func:`inspect`.
    """
    config = setup.config
    splits = load_data(config.data, config.train.seed)
    sets = load_sets(setup, splits)
    steps = epoch_steps(config.train, splits.train, epoch=0)
    visits = sum(len(part.images) for step in steps for part in step)

    def emit(name: str, data: Mapping[str, Any]) -> None:
        if name == "notice":
            notify(data["text"])

    decider = decider_of(setup, sets, visits, Reports(emit, lambda: None))
    records: list[dict[str, Any]] = []
    by_start = {span.start: span for span in spans(phases)}
    for number, phase in enumerate(phases):
        (progress or _silent)("measuring", number, len(phases))
        span = by_start.get(phase.start_epoch)
        if span is None:  # only the rates are others than before
            records.append(records[-1])
            continue
        setup.controller.apply(phase.plan)
        decided = decider.decide(span)
        if not isinstance(decided, PhaseDecision):
            decided.close()
            decided = decided.decision(None)
        records.append(decided.to_json())
    return records


def _parameters(setup: Setup, phases: Sequence[Phase]) -> list[dict[str, Any]]:
    stage_of = {name: stage.name for stage in setup.schedule.stages for name in stage.parameters}
    rows = [
        {
            "name": name,
            "shape": list(parameter.shape),
            "numel": parameter.numel(),
            "stage": stage_of[name],
            "trainable": [name in phase.plan.trainable for phase in phases],
        }
        for name, parameter in named_parameters(setup.net)
    ]
    own = [
        {
            "name": f"loss.{name}",
            "shape": list(parameter.shape),
            "numel": parameter.numel(),
            "stage": "loss",
            "trainable": [True for _ in phases],
        }
        for name, parameter in named_parameters(setup.loss)
    ]
    return rows + own


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
