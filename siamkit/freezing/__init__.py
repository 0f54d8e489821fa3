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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamkit.freezing.controller import FreezeController
    from siamkit.freezing.schedule import FreezeSchedule
    from siamkit.interfaces import FreezePlan, FreezePolicy, Phase, Progress, Stage
    from siamkit.model.names import tied_parameters, unwrap
    from siamkit.model.stages import discover_stages

_HOME = {
    "FreezeController": "siamkit.freezing.controller",
    "FreezePlan": "siamkit.interfaces",
    "FreezePolicy": "siamkit.interfaces",
    "FreezeSchedule": "siamkit.freezing.schedule",
    "Phase": "siamkit.interfaces",
    "Progress": "siamkit.interfaces",
    "Stage": "siamkit.interfaces",
    "discover_stages": "siamkit.model.stages",
    "tied_parameters": "siamkit.model.names",
    "unwrap": "siamkit.model.names",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'siamkit.freezing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
