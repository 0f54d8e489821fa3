"""Freezing: controls which parts of any ``nn.Module`` train, and when.

::

    stages = discover_stages(module, example, head="fc")
    schedule = FreezeSchedule(policy, stages, epochs=10)
    controller = FreezeController(module, stages)
    for phase in schedule.phases():
        controller.apply(phase.plan)
        ...
        controller.verify(f"epoch {phase.end_epoch}")

The names load on first use, so that importing siamkit doesn't import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siamkit.lazy import lazily

if TYPE_CHECKING:
    from siamkit.freezing.controller import FreezeController
    from siamkit.freezing.schedule import FreezeSchedule
    from siamkit.interfaces import FreezePlan, FreezePolicy, Phase, Progress, Stage
    from siamkit.model.names import tied_parameters, unwrap
    from siamkit.model.stages import discover_stages

_HOME = {
    "siamkit.freezing.controller": ("FreezeController",),
    "siamkit.freezing.schedule": ("FreezeSchedule",),
    "siamkit.interfaces": ("FreezePlan", "FreezePolicy", "Phase", "Progress", "Stage"),
    "siamkit.model.names": ("tied_parameters", "unwrap"),
    "siamkit.model.stages": ("discover_stages",),
}

__all__ = [
    "FreezeController",
    "FreezePlan",
    "FreezePolicy",
    "FreezeSchedule",
    "Phase",
    "Progress",
    "Stage",
    "discover_stages",
    "tied_parameters",
    "unwrap",
]

__getattr__, __dir__ = lazily(__name__, _HOME)
