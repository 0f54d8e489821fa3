"""Registry entries for Python objects. Each builds copies of one object, adapted to siamkit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any

from torch import nn

from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePolicy, Loss, LossContext, Scheduler
from siamkit.model.copying import copied
from siamkit.objects.adapters import (
    FunctionPolicy,
    FunctionScheduler,
    MetricLearningLoss,
    require_fit,
    require_use,
)
from siamkit.objects.identity import qualified_name
from siamkit.registry import GIVEN, PYTHON, Entry, ObjectOptions

Build = Callable[..., Any]

TAKES = {
    "backbone": "a torch.nn.Module",
    "head": "a torch.nn.Module",
    "freeze": "a siamkit.FreezePolicy, or a function (stages, progress) -> FreezePlan",
    "loss": "a siamkit.Loss, a loss of pytorch-metric-learning, or (loss, miner)",
    "optimizer": "a function groups -> torch.optim.Optimizer, such as torch.optim.RMSprop",
    "scheduler": "a siamkit.Scheduler, or a function progress -> multiplier",
    "track": "a function of a siamkit.Event",
}
"""For each section of the config, the objects that it takes instead of a name."""


def is_object(value: Any) -> bool:
    """Return whether an argument is an object instead of a name or a mapping of options."""
    return value is not None and not isinstance(value, str | Mapping)


def entry_of(section: str, thing: Any) -> Entry:
    """Return an entry that builds copies of an object.

    Args:
        section: The section of the config that the object is for; one of :data:`TAKES`.
        thing: The object.

    Raises:
        ConfigError: The object does not fit its section.
    """
    build = _BUILDERS[section](thing)
    if build is None:
        got = thing if isinstance(thing, type) else type(thing)
        raise ConfigError(
            "is of a wrong type",
            where=section,
            got=got,
            allowed=f"a name, a mapping of options, or {TAKES[section]}",
            hint=f"pass an instance: {got.__name__}(...)" if isinstance(thing, type) else None,
        )
    name = f"{PYTHON}{qualified_name(thing)}"
    return Entry(name, build, ObjectOptions, "Given in Python.", distribution=GIVEN)


# --- the build function for each section; None if the object does not fit ------------------------


def _module(section: str, thing: Any) -> Build | None:
    # A copy, so that training does not change the caller's module, and every build starts equal.
    return (lambda *_: copied(thing, section)) if isinstance(thing, nn.Module) else None


def _freeze(thing: Any) -> Build | None:
    # Copies, since a run wraps their methods with checks.
    if isinstance(thing, FreezePolicy):
        return lambda _options: copy(thing)
    return (lambda _options: FunctionPolicy(thing)) if _is_function(thing) else None


def _scheduler(thing: Any) -> Build | None:
    if isinstance(thing, Scheduler):
        return lambda _options: copy(thing)
    return (lambda _options: FunctionScheduler(thing)) if _is_function(thing) else None


def _loss(thing: Any) -> Build | None:
    criterion, miner = thing if isinstance(thing, tuple) and len(thing) == 2 else (thing, None)
    if isinstance(criterion, Loss) and miner is None:
        return lambda _options, _context: copied(criterion, "loss")
    if not MetricLearningLoss.takes(criterion, miner):
        return None
    require_use(criterion, miner)

    def build(_options: Any, context: LossContext) -> Loss:
        require_fit(criterion, context)
        return MetricLearningLoss(copied(criterion, "loss"), copied(miner, "loss"))

    return build


def _optimizer(thing: Any) -> Build | None:
    return (lambda _options, groups: thing(groups)) if callable(thing) else None


def _tracker(thing: Any) -> Build | None:
    return (lambda _options: copied(thing, "track")) if _is_function(thing) else None


def _is_function(thing: Any) -> bool:
    return callable(thing) and not isinstance(thing, type)


_BUILDERS: Mapping[str, Callable[[Any], Build | None]] = {
    "backbone": partial(_module, "backbone"),
    "head": partial(_module, "head"),
    "freeze": _freeze,
    "loss": _loss,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "track": _tracker,
}
