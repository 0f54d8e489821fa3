"""Names to entries: what is registered, by whom, and with which options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from siamkit.errors import ConfigError, PluginError, did_you_mean
from siamkit.problems import Namer, config_error

__all__ = ["KINDS", "Entry", "NoOptions", "Registry", "canonical", "config_error", "new_registries"]

KINDS = ("backbones", "freeze_policies", "losses", "schedulers", "trackers")
"""The registries, by the plural in their hook's name."""


def canonical(distribution: str) -> str:
    """Return a distribution's name as the packaging standards compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class NoOptions(BaseModel):
    """The options of an entry that has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Entry:
    """A registered name.

    Attributes:
        name: What the user types. A name that ends in ``:`` answers for every name it begins
            (``timm:`` for ``timm:convnext_tiny``).
        build: Called with the validated options, and with a context for backbones and losses.
        options: The pydantic model of its options.
        summary: One line for ``siamkit list``.
        pretrained: For a backbone: whether it can supply pretrained weights.
        distribution: The distribution that registered it.
    """

    name: str
    build: Callable[..., Any]
    options: type[BaseModel] = NoOptions
    summary: str = ""
    pretrained: bool = False
    distribution: str = "siamkit"

    def validate(
        self, values: Mapping[str, Any], where: str | Namer, *, kind: str = ""
    ) -> BaseModel:
        """Return the options object for ``values``.

        Args:
            values: Option values by name.
            where: Dotted path of the options, for errors, such as ``run.yaml: loss``; or a
                function from an option's name to its place.
            kind: What the entry is, for errors, such as ``loss``.

        Raises:
            ConfigError: A value is out of range, or a name unknown.
        """
        try:
            return self.options.model_validate(dict(values))
        except ValidationError as error:
            of = f"{kind} {self.name!r}".strip()
            raise config_error(error, self.options, where, of) from None


@dataclass
class Registry:
    """The entries of one kind.

    Attributes:
        kind: In the singular, for messages, such as ``freeze policy``.
        command: The command that lists the entries.
    """

    kind: str
    command: str
    entries: dict[str, Entry] = field(default_factory=dict)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    failures: Callable[[], list[str]] = list

    def add(self, entry: Entry) -> None:
        """Add an entry. A name that is already taken becomes unusable, and says why when used."""
        other = self.entries.get(entry.name)
        if other is not None:
            claims = self.conflicts.setdefault(entry.name, [other.distribution])
            claims.append(entry.distribution)
            return
        self.entries[entry.name] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self.entries.values(), key=lambda e: e.name))

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self.entries)

    def get(self, name: str) -> Entry:
        """Return the entry for ``name``.

        Raises:
            ConfigError: No such name; the message holds the nearest one and failed plugins.
            PluginError: Two distributions claim it.
        """
        prefix = name.partition(":")[0] + ":" if ":" in name else name
        key = name if name in self.entries else prefix
        if key in self.conflicts:
            raise PluginError(
                f"{self.kind} {key!r} is registered by {' and '.join(self.conflicts[key])}",
                hint="uninstall one, or leave one out with SIAMKIT_DISABLE_PLUGINS",
            )
        if key in self.entries:
            return self.entries[key]
        near = did_you_mean(name, self.entries)
        hint = f"{near} " if near else ""
        hint += f"'siamkit {self.command}' lists them"
        for failure in self.failures():
            hint += f"\nnote: plugin {failure} failed to load: see 'siamkit plugins'"
        raise ConfigError(f"unknown {self.kind} {name!r}", hint=hint)


def new_registries() -> dict[str, Registry]:
    """Return an empty registry for each of :data:`KINDS`."""
    return {
        kind: Registry(singular, f"list {kind.replace('_', '-')}")
        for kind, singular in zip(
            KINDS, ("backbone", "freeze policy", "loss", "scheduler", "tracker"), strict=True
        )
    }
