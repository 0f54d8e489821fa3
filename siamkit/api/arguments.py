"""Sorts the keyword arguments of Python functions into config values, objects and data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from siamkit.config import COMPONENTS, ENTRY_MODELS, Layer, RunConfig
from siamkit.data.memory import SPLITS
from siamkit.errors import ConfigError, did_you_mean
from siamkit.files import path_of
from siamkit.objects.entries import TAKES, is_object
from siamkit.registry import Registry
from siamkit.spelling import EVERYDAY, python_argument

SECTIONS = ("train", "engine", "calibration", "track", "report")
"""Sections of the config whose values are passed in an argument of the same name."""


@dataclass(frozen=True)
class Arguments:
    """The sorted arguments of a call.

    Attributes:
        layer: The arguments that are config values.
        objects: The arguments that are objects, by section.
        data: The argument ``data`` if it is neither a path nor config values, such as a list of
            images in memory; else None.
    """

    layer: Layer
    objects: Mapping[str, Any] = field(default_factory=dict)
    data: Any = None


def read(given: Mapping[str, Any], registries: Mapping[str, Registry]) -> Arguments:
    """Return keyword arguments, sorted. Arguments that are None are ignored.

    Args:
        given: The arguments by name.
        registries: The registry of each component section, to suggest the right argument for a
            wrong one.

    Raises:
        ConfigError: An argument is unknown (the message suggests the right one), or a path is not
            usable.
    """
    values: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    memory: Any = None
    known = (*COMPONENTS, *EVERYDAY, *SECTIONS, "data")
    for name, value in given.items():
        if value is None:
            continue
        if name not in known:
            raise _unknown(name, value, known, registries)
        if name == "data":
            if _is_config(value):
                _put(values, "data", dict(value))
            elif isinstance(value, str | os.PathLike):
                _put(values, "data", {"path": str(path_of(value, name))})
            else:
                memory = value
        elif name == "run_dir":
            _set(values, name, str(path_of(value, name, "the run's directory")))
        elif name in EVERYDAY:
            _set(values, EVERYDAY[name], value)
        elif name in COMPONENTS and is_object(value):
            objects[name] = value
        elif name in COMPONENTS:
            _put(values, name, {"name": value} if isinstance(value, str) else dict(value))
        else:
            _put(values, name, value)
    return Arguments(Layer(values, python_argument), objects, memory)


def objects_of(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the objects that are passed to an existing run; return all that are not None.

    Args:
        given: The objects by the name of their argument.
        where: The function that they were passed to, for errors.

    Raises:
        ConfigError: An argument does not name a component of a run, or its value is no object.
    """
    objects = {name: value for name, value in given.items() if value is not None}
    for name, value in objects.items():
        if name not in COMPONENTS:
            setting = name in EVERYDAY or name in SECTIONS or name in ("config", "data")
            near = did_you_mean(name, COMPONENTS)
            raise ConfigError(
                "cannot be changed: a run keeps the settings that it was started with"
                if setting
                else "no such argument",
                where=f"{where}: {name}",
                allowed="the objects that the run was started with: " + ", ".join(COMPONENTS),
                hint=near or (f"siamkit.fit({name}=...) starts a new run" if setting else None),
            )
        if not is_object(value):
            raise ConfigError(
                "is a name or a mapping; pass only objects, because the run stores names itself",
                where=f"{where}: {name}",
                got=value,
                allowed=f"the object that the run was started with: {TAKES[name]}",
                hint=f"leave {name} out if the run was started with a name",
            )
    return objects


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and not any(key in SPLITS for key in value)


def _put(values: dict[str, Any], section: str, content: Any) -> None:
    old = values.get(section)
    both = isinstance(old, dict) and isinstance(content, Mapping)
    values[section] = {**old, **content} if both else content  # type: ignore[dict-item]


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    section, _, key = path.partition(".")
    if key:
        _put(values, section, {key: value})
    else:
        values[section] = value


def _unknown(
    name: str, value: Any, known: tuple[str, ...], registries: Mapping[str, Registry]
) -> ConfigError:
    places = _places(name, registries)
    if places:
        hint = "write " + " or ".join(place.replace("...", repr(value)) for place in places[:3])
    else:
        hint = did_you_mean(name, known) or f"the arguments are {', '.join(sorted(known))}"
    return ConfigError("no such argument", where=name, hint=hint)


def _places(name: str, registries: Mapping[str, Registry]) -> list[str]:
    """Return the arguments that set ``name``, as a key of the config or an option of an entry."""
    places: list[str] = []
    for section, info in RunConfig.model_fields.items():
        model = ENTRY_MODELS.get(section, info.annotation)
        if name in getattr(model, "model_fields", {}):
            places.append(python_argument(f"{section}.{name}"))
    for section in COMPONENTS:
        for entry in registries[section]:
            if name in entry.options.model_fields:
                places.append(f"{section}={{'name': {entry.name!r}, {name!r}: ...}}")
    return places
