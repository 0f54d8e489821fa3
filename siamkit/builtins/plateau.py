"""Plateaus of the monitored metric, counted by replaying its history."""

from __future__ import annotations

from siamkit.interfaces import Progress


def plateaus(progress: Progress, patience: int, min_delta: float, *, start: float = 0.0) -> int:
    """Return the number of plateaus before the epoch at ``progress.epoch``.

    A plateau is ``patience`` epochs in a row without an improvement of more than ``min_delta`` over
    the best value so far. Then the count of epochs starts again, and the best value stays. Each
    call replays the history, so there is no state to save or to lose on resume.

    Args:
        progress: The progress of the run.
        patience: Epochs without improvement that count as a plateau.
        min_delta: Improvements up to this size are ignored, in units of the metric.
        start: The first epoch that counts towards a plateau; earlier ones can only set the best
            value.
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
