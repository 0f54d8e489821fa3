"""The check of schedulers: simulates whole runs, by step and by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

from siamkit.interfaces import Progress, Scheduler
from siamkit.testing.common import Expect, History, Values, histories, untouched
from siamkit.testing.subjects import checked_entry, conformance
from siamkit.words import plural

_EPOCHS = (1, 2, 5, 12, 100)
_LEAST, _MOST = 0.01, 100.0
_STOPS = "The run would stop there."


@conformance
def check_scheduler(
    given: str | Scheduler | Callable[[Progress], float], options: Values | None = None
) -> None:
    """Check a scheduler by simulating whole runs, by step and by epoch.

    Args:
        given: The registered name, a scheduler, or a function ``progress -> multiplier``.
        options: Option values of a named scheduler, if the defaults are unsuitable.
    """
    entry, validated, expect = checked_entry("schedulers", given, options)

    def build() -> Scheduler:
        with expect.during("in build", "Users could not use it."):
            scheduler = entry.build(validated)
        expect(isinstance(scheduler, Scheduler), "build to return a Scheduler", scheduler,
               "Training would be refused.")  # fmt: skip
        return scheduler  # type: ignore[no-any-return]

    for epochs in _EPOCHS:
        for label, (monitor, history) in histories(epochs).items():
            for steps in (0, 1, 7) if epochs < 100 else (1,):
                within = expect.within(
                    f"{plural(epochs, 'epoch')}, {steps or 'unknown'} steps per epoch, {label}"
                )
                _check_scales(build, _moments(epochs, steps, monitor, history), within)


def _moments(epochs: int, steps: int, monitor: str, history: History) -> list[Progress]:
    return [
        Progress(epoch, epochs, epoch * steps + i, epochs * steps, history[:epoch], monitor)
        for epoch in range(epochs)
        for i in range(steps or 1)
    ]


def _check_scales(build: Callable[[], Scheduler], moments: list[Progress], expect: Expect) -> None:
    with untouched(expect, moments):
        scales = _scales(build(), moments, expect)
        # A second scheduler, called in reverse order: a resumed run starts in the middle.
        mirrored = _scales(build(), moments[::-1], expect)[::-1]
    expect(
        scales == mirrored, "the same scale for the same progress, whatever the earlier calls",
        [(a, b) for a, b in zip(scales, mirrored, strict=True) if a != b][:3],
        "A resumed run would continue with other rates.",
    )  # fmt: skip
    expect(any(scales), "a scale above zero in at least one step", "zero throughout",
           "Training would have no effect.")  # fmt: skip
    if moments[0].steps:
        idle = {m.epoch for m in moments} - {
            m.epoch for m, scale in zip(moments, scales, strict=True) if scale
        }
        expect(not idle, "a scale above zero in each epoch", f"zero throughout epochs {idle}",
               "These epochs would take time and change nothing.")  # fmt: skip
    expect(
        _LEAST <= max(scales) <= _MOST,
        f"multipliers of the user's rate, with the largest between {_LEAST} and {_MOST:g}",
        max(scales), "Training would be too slow or diverge at any usual --lr.",
    )  # fmt: skip


def _scales(scheduler: Scheduler, moments: list[Progress], expect: Expect) -> list[float]:
    scales = []
    for moment in moments:
        at = expect.within(f"epoch {moment.epoch}, step {moment.step}")
        with at.during("in lr_scale", _STOPS):
            scale = scheduler.lr_scale(moment)
        plain = isinstance(scale, int | float) and not isinstance(scale, bool)
        at(plain, "a finite number that is not negative, as an int or float", repr(scale), _STOPS)
        at(math.isfinite(scale) and scale >= 0, "a finite number that is not negative", scale,
           _STOPS)  # fmt: skip
        scales.append(scale)
    return scales
