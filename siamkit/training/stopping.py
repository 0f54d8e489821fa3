"""Early stopping before a policy has unfrozen what it would: what such a run has to say."""

from __future__ import annotations

from dataclasses import replace

from siamkit.freezing.schedule import FreezeSchedule, History
from siamkit.spelling import setting

_AHEAD = 1000  # epochs without improvement, after which a metric-driven policy has unfrozen all


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
                f"improvement ({setting('train.patience', patience + epoch + 1 - done)}), or "
                "unfreeze earlier"
            )
    return None
