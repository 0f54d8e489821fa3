"""The overlay: registries and config values for the objects that a caller passes to one run.

A run's config holds names and options. An object appears there as ``python:MODULE.CLASS``, with a
hash of its source and settings as its only option. So the config records the objects of a run, and
a resumed run is refused if an object is missing or differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from siamkit.config import RunConfig
from siamkit.errors import CheckpointError
from siamkit.objects.entries import entry_of
from siamkit.objects.identity import UNCOMPARED, qualified_name, source_hash
from siamkit.registry import PYTHON, Registry


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
        entry = entry_of(section, thing)
        registry = copy(result[section])
        registry.entries = {**registry.entries, entry.name: entry}
        result[section] = registry
        values[section] = {"name": entry.name, "source": source_hash(thing)}
    return result, values


def require_same(objects: Mapping[str, Any], config: RunConfig, where: str) -> None:
    """Check that the objects passed again are the ones that the run was started with.

    Raises:
        CheckpointError: An object differs, or the run used a registered name in its place.
    """
    for section, thing in objects.items():
        component = getattr(config, section)
        name = f"{PYTHON}{qualified_name(thing)}"
        if component.name != name:
            raise CheckpointError(
                "is not what the run was started with",
                where=f"{where}: {section}",
                got=name.removeprefix(PYTHON),
                allowed=component.name.removeprefix(PYTHON),
            )
        if component.options.get("source") != source_hash(thing):
            raise CheckpointError(
                f"{name.removeprefix(PYTHON)} has other source code, settings or shapes than when "
                "the run was started",
                where=f"{where}: {section}",
                hint=f"pass the original object, or start a new run ({UNCOMPARED})",
            )
