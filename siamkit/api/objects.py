"""The entries for objects that a caller passes to one run instead of names.

A run's config holds names and options. An object appears there as ``python:MODULE.CLASS``, with a
hash of its source as its only option. So the config records the objects of a run, and a resumed run
is refused if an object is missing or differs.
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
    """Add entries for objects to the registries.

    Args:
        registries: The registry of each section of the config.
        objects: The objects by section.

    Returns:
        The registries with an entry for each object, and the config values that name them.

    Raises:
        ConfigError: An object does not fit its section.
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
    """Check that the objects passed to a run again are those of its start.

    Raises:
        CheckpointError: An object differs, or the run used a registered name in its place.
    """
    for section, thing in objects.items():
        component = getattr(config, section)
        name = f"{PYTHON}{qualified_name(thing)}"
        if component.name != name:
            raise CheckpointError(
                "the run was started with another one",
                where=f"{where}: {section}",
                got=name.removeprefix(PYTHON),
                allowed=component.name.removeprefix(PYTHON),
            )
        if component.options.get("source") != source_hash(thing):
            raise CheckpointError(
                f"{name.removeprefix(PYTHON)} has other source code, settings or shapes than when "
                "the run was started",
                where=f"{where}: {section}",
                hint="pass the original object, or start a new run",
            )


def is_object(value: Any) -> bool:
    """Return whether an argument is an object instead of a name or a mapping of options."""
    return value is not None and not isinstance(value, str | Mapping)


def qualified_name(thing: Any) -> str:
    """Return the module and qualified name of a function, a class, or an object's class."""
    if isinstance(thing, tuple | list) and thing:  # a loss and its miner
        return "+".join(qualified_name(part) for part in thing)
    if isinstance(thing, partial):
        return qualified_name(thing.func)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


def source_hash(thing: Any) -> str:
    """Return a hash of an object's source code and settings: 16 hexadecimal digits.

    The settings of a module are its printed structure and the shapes of its tensors, not its
    weights. The settings of another object are its plain attributes.
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
    """Return an object's attributes; an object without ``__dict__`` has none."""
    return dict(getattr(thing, "__dict__", {}))


def _plain(value: Any) -> str:
    """Return a value as text that is the same in every process, so without addresses."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _captured(thing: Any) -> list[str]:
    """Return the default arguments of a function, and the variables that it closes over."""
    cells = getattr(thing, "__closure__", None) or ()
    defaults = getattr(thing, "__defaults__", None) or ()
    named = getattr(thing, "__kwdefaults__", None) or {}
    values = [*(cell.cell_contents for cell in cells), *defaults, *sorted(named.items())]
    return [_plain(value) for value in values]


def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # built in, or defined in an interactive session
        compiled = getattr(code, "__code__", None)
        return "" if compiled is None else f"{compiled.co_code.hex()} {compiled.co_consts!r}"


# --- what each section takes ---------------------------------------------------------------------


def _backbone(thing: Any) -> Build:
    if not isinstance(thing, nn.Module):
        raise _unfit("backbone", thing, "a name, a mapping of options, or a torch.nn.Module")
    # A copy: training must not change the caller's module, and a second build starts from it again.
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
    # Copies, since a run wraps their methods with checks.
    return lambda _options: copy(thing)


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
    return lambda _options: copy(thing)


def _unfit(section: str, thing: Any, allowed: str) -> ConfigError:
    got = thing if isinstance(thing, type) else type(thing)
    hint = f"pass an instance: {got.__name__}(...)" if isinstance(thing, type) else None
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
