"""The warm-up: the rate factors of stages that were just unfrozen."""

from __future__ import annotations

from collections.abc import Mapping


def warmup_factors(
    unfrozen: Mapping[str, int], step: int, steps_per_epoch: int, length: int
) -> dict[str, float]:
    """Return the rate factor in (0, 1] of each stage that still warms up at ``step``.

    Args:
        unfrozen: The epoch at whose start each stage was unfrozen.
        step: Optimizer steps completed in the run.
        steps_per_epoch: Optimizer steps per epoch.
        length: Steps over which the rate grows linearly to its full value.
    """
    return {
        name: (since + 1) / length
        for name, epoch in unfrozen.items()
        if (since := step - epoch * steps_per_epoch) < length
    }
