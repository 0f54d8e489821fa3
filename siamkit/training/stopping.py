"""Early stopping: when a run stops, and what it says if its policy would have unfrozen more."""

from __future__ import annotations

from dataclasses import replace

from siamkit.freezing.schedule import FreezeSchedule, History
from siamkit.spelling import setting
from siamkit.training.state import best_epoch

_AHEAD = 1000  # epochs without improvement, after which a metric-driven policy has unfrozen all


def out_of_patience(schedule: FreezeSchedule, history: History, patience: int | None) -> bool:
    """Return whether the run has trained for ``patience`` epochs without an improvement.

    The epochs count anew from each epoch that begins to train a stage, because that often makes the
    network worse before it makes it better. So no run stops just before such an epoch either.

    Args:
        schedule: The policy over the stages and epochs of the run.
        history: The metrics of the finished epochs.
        patience: The number of epochs; None: the run never stops early.
    """
    best = best_epoch(history, schedule.monitor)
    if patience is None or best is None:
        return False
    unfrozen = schedule.unfrozen_at(min(len(history), schedule.epochs - 1), history).values()
    return len(history) - max([best + 1, *unfrozen]) >= patience


def stopped_before(schedule: FreezeSchedule, history: History, patience: int) -> str | None:
    """Return a notice if early stopping ended a run before its policy trained some stages.

    The head alone, from a closed form, often stays as good as it is. So the patience can end before
    anything else was tried.

    Args:
        schedule: The policy over the stages and epochs of the run.
        history: The metrics of the finished epochs.
        patience: The epochs without improvement after which the run stops.
    """
    done, ahead = len(history), schedule.epochs
    later = list(history)
    if schedule.policy.metric_driven:  # such a policy waits for epochs like the last one
        ahead = done + _AHEAD
        later += [history[-1]] * _AHEAD
        schedule = replace(schedule, epochs=ahead)
    trained = frozenset[str]().union(*(schedule.plan_at(e, history).trainable for e in range(done)))
    for epoch in range(done, ahead):
        waiting = schedule.plan_at(epoch, later).trainable - trained
        stages = [s.name for s in schedule.stages if not waiting.isdisjoint(s.parameters)]
        if stages:
            return (
                f"the run stopped early in epoch {done}, before policy {schedule.name!r} trained "
                f"{', '.join(stages)}, which it does from epoch {epoch + 1} on: wait longer for an "
                f"improvement ({setting('train.patience', patience + epoch - done)}), or "
                "unfreeze earlier"
            )
    return None
