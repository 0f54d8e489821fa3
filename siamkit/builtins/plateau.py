"""Plateaus of the monitored metric, counted by replaying its history."""

from __future__ import annotations

from siamkit.interfaces import Progress


def plateaus(progress: Progress, patience: int, min_delta: float, *, start: float = 0.0) -> int:
    """Return how many plateaus the run has met before the epoch at ``progress.epoch``.

    A plateau is ``patience`` epochs in a row, none of which beat the best value so far by more
    than ``min_delta``; the count of epochs then starts again, the best value stays. The history is
    replayed on each call, so there is no state to save and none to lose on resume.

    Args:
        progress: Where the run stands.
        patience: Epochs without a better metric that make a plateau.
        min_delta: Improvements up to this size don't count, in units of the metric.
        start: Epochs that began before this one may set the best value, but are no part of a
            plateau.
    """
    count, waited, best = 0, 0, float("-inf")
    for epoch, value in enumerate(progress.monitored[: progress.epoch]):
        if value > best + min_delta:
            best, waited = value, 0
            continue
        waited += epoch >= start
        if waited >= patience:
            count, waited = count + 1, 0
    return count
