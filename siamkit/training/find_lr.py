"""The search for a learning rate: a range test under one phase of a run, and its suggestion."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from siamkit.checks import whole_number
from siamkit.config import DEFAULT_RATE, RunConfig
from siamkit.data.load import load_data
from siamkit.data.splits import Splits
from siamkit.engine.settings import Reports
from siamkit.errors import ConfigError
from siamkit.freezing.schedule import FreezeSchedule, History, status
from siamkit.guard import attributing
from siamkit.interfaces import Event, Phase
from siamkit.model.device import using_threads
from siamkit.registry import Registry
from siamkit.runs.events import Listener
from siamkit.spelling import argument, command, setting
from siamkit.training.batching import batch_notices
from siamkit.training.build import Setup, build, build_optimizer, prepare_images
from siamkit.training.earlier import train_before
from siamkit.training.quantize import INT8, QuantizedPrefix, quantized
from siamkit.training.range_test import REPEATS, run_range_test, tried_rates
from siamkit.training.requirements import for_data, require_loss
from siamkit.training.suggestion import mean_curve, suggested
from siamkit.words import plural

STEPS, LOWEST, HIGHEST = 100, 1e-7, 10.0
"""By default: the number of rates to try, the lowest rate and the highest rate."""

LEAST_STEPS, MOST_STEPS = 20, 10_000

Progress = Callable[[int, int], None]
"""Receives the number of finished steps, and the number of all steps."""


def _silent(_done: int, _total: int) -> None:
    """Show no progress."""


def find_lr(
    config: RunConfig,
    registries: Mapping[str, Registry],
    *,
    phase: int | None = None,
    epoch: int | None = None,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    splits: Splits | None = None,
    int8: QuantizedPrefix | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a learning-rate range test, and return the JSON object of ``siamkit lr-find --json``.

    The test builds a network of its own, so nothing that a training uses changes, except that the
    cache then holds the features of the images that the test used. The epochs before a later phase
    are trained first, because the phase starts from the weights that they leave.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        phase: The number of the phase to test under, from 1; None: the first.
        epoch: An epoch of the phase to test under, from 1, instead of ``phase``.
        steps: The number of rates to try.
        lowest: The first rate.
        highest: The last rate.
        splits: The data of the run; None: load it.
        int8: The part of the run's network that is computed in int8, if the run has one; None: make
            it if the config asks for it.
        progress: Called with the number of finished steps, and the number of all steps. The steps
            of the epochs before the phase count too.

    Raises:
        SiamkitError: A setting, the data or a plugin is at fault.
    """
    _require_range(steps, lowest, highest)
    started = time.perf_counter()
    notices: list[str] = []
    show, before = progress or _silent, 0  # the steps of the epochs before the phase

    def emit(name: str, data: Mapping[str, Any]) -> None:
        nonlocal before
        if name == "notice":
            notices.append(data["text"])
        elif name == "step":
            before = data["step"]
            earlier = data["steps"] // config.train.epochs * chosen.start_epoch
            show(before, earlier + REPEATS * steps)

    alone = splits is None
    if splits is None:
        splits = load_data(config.data, config.train.seed)
    config = for_data(config, splits, registries)
    setup = build(config, registries, len(splits.train.classes))
    about_images = prepare_images(setup, splits)
    if alone:  # a run that searches its rate says the same itself
        batches = batch_notices(config.train, splits.train)
        notices += [*splits.notices, *batches, *about_images]
    require_loss(setup, splits)
    history: History = ()
    chosen = _chosen(setup.schedule, phase, epoch)
    setup.schedule.require_trainable([chosen])
    rates = tried_rates(lowest, highest, steps)
    reports = Reports(emit, lambda: None)
    with using_threads(config.train.threads), attributing(setup.plugins):
        if int8 is not None:
            int8.apply(setup)
        elif config.engine.prefix == INT8:
            int8 = quantized(setup, splits)
            notices.append(int8.notice)
        if chosen.start_epoch:
            if config.optimizer.lr == "auto":
                first = rate_of_run(config, registries, splits, (), int8)
                setup, _ = with_rate(setup, splits, registries, first)
            notices.append(_about_earlier(setup, chosen))
            history = train_before(
                setup, splits, lambda known: _chosen(setup.schedule, phase, epoch, known), reports
            )
            chosen = _chosen(setup.schedule, phase, epoch, history)
        tested = run_range_test(
            setup, registries, splits, chosen, rates, reports,
            lambda done, total: show(before + done, before + total),
        )  # fmt: skip
    found = suggested(tested.curves)
    mean = mean_curve(tested.curves)
    longest = max(tested.curves, key=lambda curve: len(curve.rates))
    return {
        **asdict(found),
        "configured": config.optimizer.lr,
        "phase": _described(setup, chosen, history),
        "steps": steps,
        "repeats": REPEATS,
        "lowest": lowest,
        "highest": highest,
        "rates": list(longest.rates),
        "loss": list(mean.losses),
        "losses": [list(curve.losses) for curve in tested.curves],
        "engine": tested.decision.to_json(),
        "seconds": time.perf_counter() - started,
        "notices": notices,
    }


def rate_of_run(
    config: RunConfig,
    registries: Mapping[str, Registry],
    splits: Splits,
    listeners: Sequence[Listener],
    int8: QuantizedPrefix | None = None,
) -> dict[str, Any]:
    """Return the rate of a run whose configured rate is ``auto``, and how it was found.

    Args:
        config: The config of a run that has not started.
        registries: The registry of each component section.
        splits: The data of the run.
        listeners: Called with the event ``lr_find``. The run's log does not hold this event,
            because the run begins only when its rate is known.
        int8: The part of the run's network that is computed in int8; None without one.

    Raises:
        ConfigError: The range test suggests no rate.
    """
    latest = -math.inf

    def advance(done: int, total: int) -> None:
        nonlocal latest
        if done in (0, total) or time.monotonic() - latest >= 1:
            latest = time.monotonic()
            for listener in listeners:
                listener(Event("lr_find", {"done": done, "total": total}))

    found = find_lr(config, registries, splits=splits, int8=int8, progress=advance)
    if found["lr"] is None:
        raise ConfigError(
            f"no learning rate was found: {found['reason']}",
            where=setting("optimizer.lr"),
            got="auto",
            hint=f"give a number, such as {setting('optimizer.lr', DEFAULT_RATE)}; "
            f"{command('lr-find')} shows the loss by rate",
        )
    kept = ("lr", "low", "high", "reason", "phase", "rates", "loss", "losses", "seconds", "notices")
    return {key: found[key] for key in kept}


def with_rate(
    setup: Setup, splits: Splits, registries: Mapping[str, Registry], found: Mapping[str, Any]
) -> tuple[Setup, Splits]:
    """Return a run's parts with the found learning rate, and its data with the search's notices."""
    optimizer = setup.config.optimizer.model_copy(update={"lr": found["lr"]})
    config = setup.config.model_copy(update={"optimizer": optimizer})
    registry, net = registries["optimizer"], setup.net
    made = build_optimizer(optimizer, registry, net, setup.loss, setup.schedule.stages)
    notices = (*splits.notices, *found["notices"])
    return replace(setup, config=config, optimizer=made), replace(splits, notices=notices)


def _require_range(steps: int, lowest: float, highest: float) -> None:
    """Check the rates to try.

    Raises:
        ConfigError: ``steps`` or a rate is out of range, or the highest rate is less than 10 times
            the lowest.
    """
    count = whole_number(steps, argument("steps"), least=LEAST_STEPS)
    if count > MOST_STEPS:
        raise ConfigError(
            "are too many", where=argument("steps"), got=steps, allowed=f"at most {MOST_STEPS}"
        )
    first, last = argument("lowest", flag="--from"), argument("highest", flag="--to")
    for where, value in ((first, lowest), (last, highest)):
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value <= 1000:
            raise ConfigError(
                "must be a learning rate",
                where=where,
                got=value,
                allowed="a number above 0, at most 1000",
            )
    if not lowest * 10 <= highest:
        raise ConfigError(
            "must be at least 10 times the first rate",
            where=last,
            got=highest,
            allowed=f"{lowest * 10:g} or more",
            hint="the test needs rates that are too small and rates that are too large",
        )


def _chosen(
    schedule: FreezeSchedule, phase: int | None, epoch: int | None, history: History = ()
) -> Phase:
    """Return the phase to test under, as the metrics of the finished epochs let expect it.

    Raises:
        ConfigError: There is no such phase or epoch, both are given, or the run has no epochs.
    """
    phases = schedule.phases(history)
    if not phases:
        raise ConfigError(
            "a run without epochs has no learning rate to find",
            where="train.epochs", got=0, hint="train for an epoch or more",
        )  # fmt: skip
    if phase is not None and epoch is not None:
        raise ConfigError(
            f"cannot be combined with {argument('phase')}",
            where=argument("epoch"),
            hint="leave one of them out",
        )
    if epoch is not None:
        number = whole_number(epoch, argument("epoch"), least=1)
        if number > schedule.epochs:
            raise ConfigError(
                f"the run has only {plural(schedule.epochs, 'epoch')}",
                where=argument("epoch"),
                got=epoch,
                hint=f"train longer ({setting('train.epochs', 'N')})",
            )
        return next(p for p in phases if p.start_epoch < number <= p.end_epoch)
    if phase is not None:
        number = whole_number(phase, argument("phase"), least=1)
        if number > len(phases):
            raise ConfigError(
                f"the plan has only {plural(len(phases), 'phase')}",
                where=argument("phase"),
                got=phase,
                hint=f"{command('inspect')} shows the phases",
            )
        return phases[number - 1]
    return phases[0]


def _about_earlier(setup: Setup, phase: Phase) -> str:
    """Return a notice about the epochs before a phase."""
    return (
        f"the test began after {plural(phase.start_epoch, 'epoch')} of training at the rate "
        f"{setup.config.optimizer.rate:g}, as this phase does"
    )


def _described(setup: Setup, phase: Phase, history: History) -> dict[str, Any]:
    phases = setup.schedule.phases(history)
    rows = status(setup.schedule.stages, phase.plan, setup.controller.sizes)
    return {
        "number": phases.index(phase) + 1,
        "of": len(phases),
        "first_epoch": phase.start_epoch + 1,
        "last_epoch": phase.end_epoch,
        "trainable_parameters": sum(row.trainable for row in rows),
        "stages": [{"name": row.name, "lr_mult": row.lr_mult} for row in rows if row.trainable],
    }
