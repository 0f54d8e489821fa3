"""Lists the registered names, and resolves configurations that use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamkit import plugins
from siamkit.config import RunConfig, resolve
from siamkit.errors import ConfigError
from siamkit.registry import KINDS, Registry


def registries() -> dict[str, Registry]:
    """Return the registry of each component section of the config, and the registry of trackers."""
    loaded = plugins.get().registries
    return {kind.section: loaded[plural] for plural, kind in KINDS.items()}


def load_config(*layers: Mapping[str, Any], where: str = "") -> RunConfig:
    """Return the complete config: the defaults, overridden by each of ``layers`` in turn.

    Args:
        *layers: Config values, nested by section.
        where: The source of the values, for errors, such as the path of a file.

    Raises:
        ConfigError: A layer is no mapping, a key or a name is unknown, or a value is out of range.
    """
    for number, layer in enumerate(layers):
        if not isinstance(layer, Mapping):
            raise ConfigError(
                "must be a mapping of sections", where=f"layers item {number}", got=type(layer)
            )
    return resolve(registries(), *layers, where=where)


def list_backbones() -> list[str]:
    """Return the names of the backbones; ``timm:`` stands for every timm model."""
    return plugins.get().backbones.names()


def list_freeze_policies() -> list[str]:
    """Return the names of the freeze policies."""
    return plugins.get().freeze_policies.names()


def list_heads() -> list[str]:
    """Return the names of the heads."""
    return plugins.get().heads.names()


def list_optimizers() -> list[str]:
    """Return the names of the optimizers."""
    return plugins.get().optimizers.names()


def list_losses() -> list[str]:
    """Return the names of the losses."""
    return plugins.get().losses.names()


def list_schedulers() -> list[str]:
    """Return the names of the schedulers."""
    return plugins.get().schedulers.names()


def list_trackers() -> list[str]:
    """Return the names of the trackers."""
    return plugins.get().trackers.names()
