"""The phases of a run under a policy, which display as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from siamkit.interfaces import Phase, Stage
from siamkit.report.inspection import span
from siamkit.report.terminal import cells, make_table
from siamkit.showing import RichRepr


class Phases(RichRepr, tuple[Phase, ...]):
    """The phases of a run under a policy; a tuple that displays as a table.

    Args:
        phases: The phases.
        stages: The network's stages.
    """

    stages: tuple[Stage, ...]

    def __new__(cls, phases: Sequence[Phase], stages: Sequence[Stage]) -> Phases:
        """Return the phases as a tuple."""
        made = super().__new__(cls, phases)
        made.stages = tuple(stages)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return the arguments of a copy's ``__new__``, for ``copy`` and ``pickle``."""
        return tuple(self), self.stages

    def __rich__(self) -> RenderableType:
        table = make_table("epochs", *(stage.name for stage in self.stages))
        for phase in self:
            table.add_row(
                *cells(
                    span(phase.start_epoch, phase.end_epoch),
                    *(_state(stage, phase) for stage in self.stages),
                )
            )
        return table


def _state(stage: Stage, phase: Phase) -> str:
    trains = len(phase.plan.trainable.intersection(stage.parameters))
    if not trains:
        return "frozen"
    rate = phase.plan.lr_mult.get(stage.name, 1.0)
    part = "" if trains == len(stage.parameters) else f"{trains} of {len(stage.parameters)} "
    return f"{part}trains" + ("" if rate == 1 else f" x{rate:g}")
