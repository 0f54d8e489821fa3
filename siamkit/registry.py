"""Names to entries: what is registered, by whom, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from siamkit.errors import ConfigError, PluginError, did_you_mean

KINDS = ("backbones", "freeze_policies", "losses", "schedulers")
"""The registries, by the plural in their hook's name."""


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

    def validate(self, values: Mapping[str, Any], where: str) -> BaseModel:
        """Return the options object for ``values``.

        Args:
            values: Option values by name.
            where: Dotted path of the options, for errors, such as ``run.yaml: loss``.

        Raises:
            ConfigError: A value is out of range, or a name unknown.
        """
        try:
            return self.options.model_validate(dict(values))
        except ValidationError as error:
            raise config_error(error, self.options, where, f"({self.name!r})") from None


def config_error(
    error: ValidationError, model: type[BaseModel], where: str, suffix: str = ""
) -> ConfigError:
    """Turn pydantic's error into ours: one line a field, the nearest name for an unknown key."""
    problems = error.errors(include_url=False, include_context=False)
    lines = [_problem_line(p, model, where) for p in problems]
    first = problems[0]
    message = "\n".join(lines) + (f" {suffix}" if suffix else "")
    return ConfigError(message, where=_join(where, first["loc"]) if len(lines) > 1 else None)


def _join(where: str, loc: tuple[int | str, ...]) -> str:
    path = ".".join(str(part) for part in loc)
    if not where:
        return path
    return f"{where}{' ' if where.endswith(':') else '.'}{path}" if path else where


def _problem_line(problem: Any, model: type[BaseModel], where: str) -> str:
    path = _join(where, problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        near = did_you_mean(str(problem["loc"][-1]), known)
        allowed = ", ".join(sorted(known)) or "none"
        return f"{path}: unknown key, allowed: {allowed}" + (f"; {near}" if near else "")
    text = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    must = f"must be {text}" if text != problem["msg"] and problem["type"] != "value_error" else text
    return f"{path}: {must}, got {problem['input']!r}"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        inner = model.model_fields.get(str(part))
        if inner is None or not isinstance(inner.annotation, type):
            return []
        model = inner.annotation
    return list(model.model_fields)


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
            KINDS, ("backbone", "freeze policy", "loss", "scheduler"), strict=True
        )
    }
