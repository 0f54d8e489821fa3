"""The forecast: notices, before a run starts, about settings that do not fit its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from siamkit.errors import PluginError
from siamkit.interfaces import HEAD, Progress
from siamkit.spelling import argument, setting
from siamkit.training.build import Setup
from siamkit.words import plural

_AHEAD = 100  # epochs after the run's end in which to look for a policy that unfreezes
_POINTS = 200  # steps at which a rate schedule is looked at
_NOMINAL = 10  # the assumed steps per epoch where the data is not known


def forecast(
    setup: Setup, steps_per_epoch: int | None = None, *, by_recipe: bool = False
) -> tuple[str, ...]:
    """Return notices about settings that do not fit the length of the run.

    Args:
        setup: The parts of the run.
        steps_per_epoch: Optimizer steps per epoch; None if the data is not known.
        by_recipe: Whether a recipe chose the length, by its budget.
    """
    if not setup.config.train.epochs:
        return ()

    def longer(least: int | None) -> str:
        return argument("budget") if by_recipe else setting("train.epochs", least)

    found = [
        _never_unfreezes(setup, longer),
        _rises_to_the_end(setup, steps_per_epoch or _NOMINAL, longer),
    ]
    if steps_per_epoch is not None:
        found.append(_never_warm(setup, steps_per_epoch))
    return tuple(notice for notice in found if notice is not None)


def _never_unfreezes(setup: Setup, advice: Callable[[int | None], str]) -> str | None:
    """Return a notice if the backbone would only train after the run's end."""
    schedule = setup.schedule
    backbone = {n for stage in schedule.stages if stage.name != HEAD for n in stage.parameters}

    def trains(epoch: int) -> bool:
        return not backbone.isdisjoint(longer.plan_at(epoch).trainable)

    longer = replace(schedule, epochs=schedule.epochs + _AHEAD)
    if schedule.policy.metric_driven or any(map(trains, range(schedule.epochs))):
        return None
    first = next((e for e in range(schedule.epochs, longer.epochs) if trains(e)), None)
    if first is None:  # the policy keeps the backbone frozen, as it should
        return None
    return (
        f"policy {schedule.name!r} unfreezes the backbone in epoch {first + 1}, but the run has "
        f"only {plural(schedule.epochs, 'epoch')}, so only the head trains: train longer "
        f"({advice(first + 2)}), or unfreeze earlier"
    )


def _rises_to_the_end(
    setup: Setup, steps_per_epoch: int, advice: Callable[[int | None], str]
) -> str | None:
    """Return a notice if the schedule's rate still rises when the run ends."""
    epochs = setup.config.train.epochs
    steps = epochs * steps_per_epoch
    monitor = setup.schedule.monitor
    chosen = sorted({round(i * (steps - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    try:
        scales = [
            setup.scheduler.lr_scale(
                Progress(
                    step // steps_per_epoch, epochs, step, steps,
                    ({monitor: 0.0},) * (step // steps_per_epoch), monitor,
                )
            )
            for step in chosen
        ]  # fmt: skip
    except PluginError:  # a schedule may need more of the history than is made up here
        return None
    highest = max(scales)
    if len(scales) < 3 or scales[-1] < highest or scales[-2] >= highest:
        return None
    return (
        f"the rate of scheduler {setup.config.scheduler.name!r} rises until the run ends, where it "
        f"is {100 * scales[-1]:.0f} % of the full rate: its warm-up is as long as the run or "
        f"longer. Train longer ({advice(None)}), or shorten the warm-up "
        f"({setting('scheduler.warmup')})"
    )


def _never_warm(setup: Setup, steps_per_epoch: int) -> str | None:
    """Return a notice if stages are unfrozen too late to warm up to their rates."""
    config, schedule = setup.config.train, setup.schedule
    if not config.unfreeze_warmup or schedule.policy.metric_driven:
        return None
    left = {
        stage: (schedule.epochs - epoch) * steps_per_epoch
        for stage, epoch in schedule.unfrozen_at(schedule.epochs - 1).items()
    }
    late = [stage for stage, steps in left.items() if steps < config.unfreeze_warmup]
    if not late:
        return None
    return (
        f"{', '.join(late)} never reach their full rate: they warm up for "
        f"{plural(config.unfreeze_warmup, 'step')} ({setting('train.unfreeze_warmup')}), but only "
        f"{plural(min(left[stage] for stage in late), 'step')} remain after they are unfrozen"
    )
