"""The short warm-up of a stage that was just unfrozen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from siamkit.freezing.schedule import plan_at
from siamkit.interfaces import FreezePolicy, Stage


def unfrozen_at(
    policy: FreezePolicy,
    stages: Sequence[Stage],
    epoch: int,
    epochs: int,
    history: Sequence[Mapping[str, float]],
    monitor: str,
) -> dict[str, int]:
    """Return the epoch at which each stage that trains now was last unfrozen.

    Recomputed from the policy each time, so a resumed run needs no memory of it. Stages that have
    trained since the start are left out: they need no warm-up beyond the schedule's.
    """
    since: dict[str, int] = {}
    before: set[str] | None = None
    for past in range(epoch + 1):
        plan = plan_at(policy, stages, past, epochs, history, monitor)
        now = {s.name for s in stages if any(p in plan.trainable for p in s.parameters)}
        for name in now - before if before is not None else ():
            since[name] = past
        for name in set(since) - now:
            del since[name]
        before = now
    return since


def warmup_factors(
    since: Mapping[str, int], step: int, steps_per_epoch: int, length: int
) -> dict[str, float]:
    """Return the rate factor in (0, 1] of each just unfrozen stage for the step at ``step``.

    Args:
        since: The epoch at which each stage was unfrozen.
        step: Optimizer steps done in the run.
        steps_per_epoch: Optimizer steps an epoch.
        length: Steps over which the rate grows linearly to its full value.
    """
    return {
        name: (done + 1) / length
        for name, epoch in since.items()
        if (done := step - epoch * steps_per_epoch) < length
    }
