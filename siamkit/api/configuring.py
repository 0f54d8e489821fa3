"""Resolves the arguments and the config of a call, and writes data in memory to files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from siamkit.api.arguments import read
from siamkit.api.entries import registries
from siamkit.config import (
    Layer,
    RunConfig,
    flat,
    is_resolved,
    merge,
    nested,
    read_file,
    resolve,
    without,
)
from siamkit.data.memory import Item, write_items
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.objects.overlay import overlaid
from siamkit.registry import Registry
from siamkit.spelling import python_argument

Config = RunConfig | Mapping[str, Any] | str | Path
"""A resolved config, values nested by section, or the path of a YAML file."""


def resolved_call(
    config: Config | None, given: Mapping[str, Any], loose: Collection[str] = ()
) -> tuple[RunConfig, Mapping[str, Registry], Any]:
    """Return the resolved config of a call, its registries, and its data in memory.

    Args:
        config: The call's config; None: the defaults.
        given: The keyword arguments of the call by name. They override ``config``.
        loose: Dotted keys whose values are left out.

    Returns:
        The config; the registry of each section, with entries for the objects in ``given``; and
        the argument ``data`` if it is in memory, else None.

    Raises:
        ConfigError: An argument or a value is wrong.
    """
    if (
        isinstance(config, RunConfig)
        and is_resolved(config)
        and not any(value is not None for value in given.values())
    ):
        return config, registries(), None
    arguments = read(given, registries())
    known, named = overlaid(registries(), arguments.objects)
    layers = [_layer(config), Layer(named, python_argument), arguments.layer]
    kept = [without(layer, loose) for layer in layers]
    return resolve(known, *kept), known, arguments.data


def values_of(config: Config | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config values that a call sets, nested by section; an object sets its name.

    A resolved config sets every value that differs from the default.

    Args:
        config: The call's config.
        given: The keyword arguments of the call by name.
    """
    arguments = read(given, registries())
    objects = {section: {"name": section} for section in arguments.objects}
    layer = _layer(config)
    if isinstance(config, RunConfig):
        usual = dict(flat(resolve(registries()).to_values()))
        own = flat(config.to_values())
        layer = nested({key: value for key, value in own if usual.get(key) != value})
    return merge(layer, objects, arguments.layer)


def placed(items: list[Item], config: RunConfig, folder: Path) -> RunConfig:
    """Write data that is given in Python to a folder, and return the config with the new paths."""
    table, root = write_items(items, folder)
    data = config.data.model_copy(update={"path": str(table), "root": root})
    return config.model_copy(update={"data": data})


def _layer(config: Any) -> Mapping[str, Any]:
    if isinstance(config, RunConfig):
        return config.to_values()
    if config is None or isinstance(config, Mapping):
        return config or {}
    if isinstance(config, str | os.PathLike):
        return read_file(path_of(config, "config", "a YAML file"))
    raise ConfigError(
        "is not a configuration",
        where="config",
        got=type(config),
        allowed="a siamkit.RunConfig, a mapping of sections, or the path of a YAML file",
        hint="data, backbone and the other arguments are passed by their names, such as data=...",
    )
