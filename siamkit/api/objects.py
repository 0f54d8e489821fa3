"""Objects in the place of names: entries for what a caller brings to one run.

A run's config holds names and options. An object stands there under a name of its own,
``python:MODULE.CLASS``, with a hash of its source as its only option. So the config says what the
run was made with, and a resumed run is refused where the object is missing or another one.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any

from torch import nn

from siamkit.api.adapters import FunctionPolicy, FunctionScheduler, MetricLearningLoss
from siamkit.config import RunConfig
from siamkit.errors import CheckpointError, ConfigError
from siamkit.interfaces import FreezePolicy, Loss, Scheduler
from siamkit.registry import GIVEN, PYTHON, Entry, ObjectOptions, Registry

Build = Callable[..., Any]


def overlaid(
    registries: Mapping[str, Registry], objects: Mapping[str, Any]
) -> tuple[dict[str, Registry], dict[str, Any]]:
    """Put objects beside the registered names.

    Args:
        registries: The registry of each section of the config.
        objects: An object by the section that it stands in.

    Returns:
        The registries with an entry for each object, and the config values that name them.

    Raises:
        ConfigError: An object is of no use in its section.
    """
    result, values = dict(registries), {}
    for section, thing in objects.items():
        build = _BUILDERS[section](thing)
        name = f"{PYTHON}{qualified_name(thing)}"
        source = source_hash(thing)
        entry = Entry(name, build, ObjectOptions, "Given in Python.", distribution=GIVEN)
        registry = copy(result[section])
        registry.entries = {**registry.entries, name: entry}
        result[section] = registry
        values[section] = {"name": name, "source": source}
    return result, values


def require_same(objects: Mapping[str, Any], config: RunConfig, where: str) -> None:
    """Check that the objects given to a run again are those that it began with.

    Raises:
        CheckpointError: One is another, or stands where the run has a registered name.
    """
    for section, thing in objects.items():
        component = getattr(config, section)
        name = f"{PYTHON}{qualified_name(thing)}"
        if component.name != name:
            raise CheckpointError(
                "the run began with something else",
                where=f"{where}: {section}",
                got=name.removeprefix(PYTHON),
                allowed=component.name.removeprefix(PYTHON),
            )
        if component.options.get("source") != source_hash(thing):
            raise CheckpointError(
                f"{name.removeprefix(PYTHON)} changed since the run began: its source code, its "
                "settings or its shapes are others",
                where=f"{where}: {section}",
                hint="give the object as it was, or start a new run",
            )


def is_object(value: Any) -> bool:
    """Tell whether an argument is an object, and no name or mapping of options."""
    return value is not None and not isinstance(value, str | Mapping)


def qualified_name(thing: Any) -> str:
    """Return module and qualified name of a function, a class, or an object's class."""
    if isinstance(thing, tuple | list) and thing:  # a loss and its miner
        return "+".join(qualified_name(part) for part in thing)
    if isinstance(thing, partial):
        return qualified_name(thing.func)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


def source_hash(thing: Any) -> str:
    """Return a hash of an object's source code and settings: 16 hexadecimal digits.

    Of a module, its printed structure and the shapes of its tensors are its settings, not its
    weights; of another object, its plain attributes.
    """
    digest = hashlib.sha256()
    for part in _described(thing):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _described(thing: Any) -> list[str]:
    if isinstance(thing, tuple | list):
        return [text for part in thing for text in _described(part)]
    if isinstance(thing, partial):
        settings = (thing.args, sorted(thing.keywords.items()))
        return [*_described(thing.func), *map(_plain, settings)]
    code = thing if hasattr(thing, "__qualname__") else type(thing)
    parts = [qualified_name(thing), _source(code), *_captured(thing)]
    if isinstance(thing, nn.Module):
        parts.append(repr(thing))
        parts += [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in thing.state_dict().items()]
    elif code is not thing:
        parts += [f"{key}={_plain(value)}" for key, value in sorted(vars_of(thing).items())]
    return parts


def vars_of(thing: Any) -> dict[str, Any]:
    """Return an object's attributes; one without a ``__dict__`` has none."""
    return dict(getattr(thing, "__dict__", {}))


def _plain(value: Any) -> str:
    """Return a value as text that is the same in another process; an address would not be."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _captured(thing: Any) -> list[str]:
    """Return what a function brings along: its defaults, and the variables that it closes over."""
    cells = getattr(thing, "__closure__", None) or ()
    defaults = getattr(thing, "__defaults__", None) or ()
    named = getattr(thing, "__kwdefaults__", None) or {}
    values = [*(cell.cell_contents for cell in cells), *defaults, *sorted(named.items())]
    return [_plain(value) for value in values]


def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # built in, or typed into a plain interpreter
        compiled = getattr(code, "__code__", None)
        return "" if compiled is None else f"{compiled.co_code.hex()} {compiled.co_consts!r}"


# --- what each section takes ---------------------------------------------------------------------


def _backbone(thing: Any) -> Build:
    if not isinstance(thing, nn.Module):
        raise _unfit("backbone", thing, "a name, a mapping of options, or a torch.nn.Module")
    # A copy: the caller's own module keeps its weights, and a second build starts from them too.
    return lambda _options, _context: deepcopy(thing)


def _head(thing: Any) -> Build:
    if not isinstance(thing, nn.Module):
        raise _unfit("head", thing, "a name, a mapping of options, or a torch.nn.Module")
    return lambda _options, _in_features: deepcopy(thing)


def _freeze(thing: Any) -> Build:
    if not isinstance(thing, FreezePolicy):
        if isinstance(thing, type) or not callable(thing):
            allowed = "a siamkit.FreezePolicy, or a function (stages, progress) -> FreezePlan"
            raise _unfit("freeze", thing, f"a name, a mapping of options, {allowed}")
        thing = FunctionPolicy(thing)
    return lambda _options: thing


def _loss(thing: Any) -> Build:
    criterion, miner = thing if isinstance(thing, tuple) and len(thing) == 2 else (thing, None)
    if isinstance(criterion, Loss) and miner is None:
        return lambda _options, _context: deepcopy(criterion)
    if not MetricLearningLoss.takes(criterion, miner):
        allowed = "a siamkit.Loss, a loss of pytorch-metric-learning, or (loss, miner)"
        raise _unfit("loss", thing, f"a name, a mapping of options, {allowed}")
    return lambda _options, _context: MetricLearningLoss(deepcopy(criterion), deepcopy(miner))


def _optimizer(thing: Any) -> Build:
    if not callable(thing):
        allowed = "a function groups -> torch.optim.Optimizer, such as torch.optim.RMSprop"
        raise _unfit("optimizer", thing, f"a name, a mapping of options, {allowed}")
    return lambda _options, groups: thing(groups)


def _scheduler(thing: Any) -> Build:
    if not isinstance(thing, Scheduler):
        if isinstance(thing, type) or not callable(thing):
            allowed = "a siamkit.Scheduler, or a function progress -> multiplier"
            raise _unfit("scheduler", thing, f"a name, a mapping of options, {allowed}")
        thing = FunctionScheduler(thing)
    return lambda _options: thing


def _unfit(section: str, thing: Any, allowed: str) -> ConfigError:
    got = thing if isinstance(thing, type) else type(thing)
    hint = f"give an instance: {got.__name__}(...)" if isinstance(thing, type) else None
    return ConfigError("cannot be used here", where=section, got=got, allowed=allowed,
                       hint=hint)  # fmt: skip


_BUILDERS: Mapping[str, Callable[[Any], Build]] = {
    "backbone": _backbone,
    "head": _head,
    "freeze": _freeze,
    "loss": _loss,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
}
