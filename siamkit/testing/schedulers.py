"""The check of schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from siamkit.interfaces import Progress, Scheduler
from siamkit.testing.common import Expect, Values, checked_entry, histories


def check_scheduler(name: str, options: Values | None = None) -> None:
    """Check a scheduler by simulating whole runs, by step and by epoch.

    Args:
        name: The registered name.
        options: Option values, where the entry's own defaults don't do.
    """
    entry, validated, expect = checked_entry("schedulers", "scheduler", name, options)
    scheduler = entry.build(validated)
    expect(isinstance(scheduler, Scheduler), "build to return a Scheduler", scheduler)
    for epochs in (1, 2, 5, 12):
        for per_epoch in (0, 1, 7):
            for metrics in histories(epochs).values():
                moments = [
                    Progress(
                        epoch, epochs, epoch * per_epoch + i, epochs * per_epoch, metrics[:epoch]
                    )
                    for epoch in range(epochs)
                    for i in range(per_epoch or 1)
                ]
                within = expect.within(f"{epochs} epochs of {per_epoch or 'unknown'} steps")
                _check_scales(lambda: entry.build(validated), moments, within)


def _check_scales(
    build: Callable[[], Scheduler], moments: Sequence[Progress], expect: Expect
) -> None:
    one, other = build(), build()
    scales = [one.lr_scale(moment) for moment in moments]
    mirrored = [other.lr_scale(moment) for moment in reversed(moments)][::-1]
    bad = [s for s in scales if not (isinstance(s, int | float) and math.isfinite(s) and s >= 0)]
    expect(not bad, "finite numbers that are not negative", bad[:3])
    expect(scales == mirrored, "the same scale for the same progress, whatever came before", scales)
    expect(any(scales), "a scale above zero somewhere", "zero throughout")
