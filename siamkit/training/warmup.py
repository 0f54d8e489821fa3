"""The short warm-up of a stage that was just unfrozen. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def warmup_factors(
    unfrozen: Mapping[str, int], step: int, steps_per_epoch: int, length: int
) -> dict[str, float]:
    """Return the rate factor in (0, 1] of each just unfrozen stage for the step at ``step``.

    Args:
        unfrozen: The epoch at which each stage was unfrozen.
        step: Optimizer steps done in the run.
        steps_per_epoch: Optimizer steps an epoch.
        length: Steps over which the rate grows linearly to its full value.
    """
    return {
        name: (done + 1) / length
        for name, epoch in unfrozen.items()
        if (done := step - epoch * steps_per_epoch) < length
    }
