"""Registries: the entries of each kind by name, with their options and distributions."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from siamkit.errors import ConfigError, PluginError, calling, did_you_mean
from siamkit.problems import Namer, config_error
from siamkit.spelling import command

__all__ = [
    "KINDS",
    "Entry",
    "Kind",
    "NoOptions",
    "Provider",
    "Registry",
    "canonical",
    "config_error",
    "new_registries",
]


@dataclass(frozen=True)
class Kind:
    """A kind of entry that plugins can register.

    Attributes:
        singular: The kind's name in messages, such as ``freeze policy``.
        section: The section of the config that names an entry of this kind.
        arguments: The arguments of ``build``, to check its signature.
    """

    singular: str
    section: str
    arguments: tuple[str, ...]


KINDS = {
    "backbones": Kind("backbone", "backbone", ("options", "context")),
    "heads": Kind("head", "head", ("options", "in_features")),
    "freeze_policies": Kind("freeze policy", "freeze", ("options",)),
    "losses": Kind("loss", "loss", ("options", "context")),
    "optimizers": Kind("optimizer", "optimizer", ("options", "groups")),
    "schedulers": Kind("scheduler", "scheduler", ("options",)),
    "trackers": Kind("tracker", "track", ("options",)),
}
"""The kinds of entries, by the plural in their hook's name."""


def canonical(distribution: str) -> str:
    """Return the normalised name of a distribution, as the packaging standards define it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class NoOptions(BaseModel):
    """The options model of an entry without options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ObjectOptions(BaseModel):
    """The options of an entry that was given as an object: a hash of its source and settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = ""


PYTHON = "python:"
"""The prefix of an entry's name if the entry was given as an object."""

GIVEN = "given in Python"
"""The distribution of an entry that was given as an object."""

HERE = "this process"
"""The distribution of an entry that this process registered itself."""


def whose(kind: str, name: str, distribution: str) -> str:
    """Return the text for an entry in messages, such as ``loss 'triplet' of siamkit``.

    Args:
        kind: The kind in the singular.
        name: The name that the user typed, or the name of an object.
        distribution: The entry's distribution.
    """
    if name.startswith(PYTHON):
        return f"{kind} {name.removeprefix(PYTHON)!r} {GIVEN}"
    return f"{kind} {name!r} of {distribution}"


@dataclass(frozen=True)
class Entry:
    """A registered name.

    Attributes:
        name: The name that the user types. A name that ends in ``:`` also stands for every name
            that begins with it (``timm:`` for ``timm:convnext_tiny``).
        build: Called with the validated options, and with a context for backbones and losses.
        options: The pydantic model of the entry's options.
        summary: One line for ``siamkit list``.
        pretrained: Whether a backbone's ``build`` can load pretrained weights.
        distribution: The distribution that registered the entry.
    """

    name: str
    build: Callable[..., Any]
    options: type[BaseModel] = NoOptions
    summary: str = ""
    pretrained: bool = False
    distribution: str = "siamkit"

    def provider(self, name: str) -> Provider:
        """Return the origin of the entry, for the record of a run.

        Args:
            name: The name that the user typed.
        """
        try:
            version = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return Provider(name, self.distribution, version)

    def validate(
        self, values: Mapping[str, Any], where: str | Namer, *, kind: str = ""
    ) -> BaseModel:
        """Return the options object for ``values``.

        Args:
            values: Option values by name.
            where: Dotted path of the options, for errors, such as ``run.yaml: loss``; or a
                function that returns where the user can change an option.
            kind: The entry's kind, for errors, such as ``loss``.

        Raises:
            ConfigError: A value is out of range, an option is unknown, or options are given for an
                object, which takes none.
            PluginError: A validator of the plugin raises anything but a validation error.
        """
        given = self.distribution == GIVEN
        if given and (options := sorted(values.keys() - ObjectOptions.model_fields.keys())):
            raise ConfigError(
                f"takes no options: {kind or 'it'} {self.name.removeprefix(PYTHON)!r} was given as "
                "an object",
                where=where(options[0]) if callable(where) else where,
                hint="set them where the object is made",
            )
        of = f"{kind} {self.name!r}".strip()
        owner = whose(kind, self.name, self.distribution).strip()
        with calling(owner, "failed to check its options"):
            try:
                return self.options.model_validate(dict(values))
            except ValidationError as error:
                raise config_error(error, self.options, where, of) from None


@dataclass(frozen=True)
class Provider:
    """The origin of a registered name: the distribution and its version. A run records it.

    Attributes:
        name: The name that the user typed.
        distribution: The distribution that registered the name.
        version: The distribution's version.
    """

    name: str
    distribution: str
    version: str

    def missing(self, kind: str, where: str) -> PluginError:
        """Return the error for a name that is not registered here; it says what to install.

        Args:
            kind: The kind of the entry, such as ``backbone``.
            where: The file that names the entry.
        """
        if self.distribution == HERE:
            function = f"siamkit.register_{kind.replace(' ', '_')}"
            what = f"{kind} {self.name!r} was registered by a Python process, not by a plugin"
            return PluginError(what, where=where, hint=f"call {function}({self.name!r}, ...) first")
        version = "" if self.version == "unknown" else f" {self.version}"
        came = f"{kind} {self.name!r} came from distribution {self.distribution!r}{version}"
        try:
            here = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            what = f"{came}, which is not installed here"
            return PluginError(what, where=where, hint=f"pip install {self.distribution}")
        return PluginError(
            f"{came}; the installed version {here} does not register it",
            where=where,
            hint=f"{command('plugins')} shows whether it failed to load or was left out; "
            f"otherwise, pip install {self.distribution}=={self.version}",
        )


@dataclass
class Registry:
    """The entries of one kind.

    Attributes:
        kind: The kind's name in messages, such as ``freeze policy``.
        command: The command that lists the entries.
        entries: The entries by name.
        conflicts: The names that several distributions registered, each with these distributions.
        failures: Returns the plugins that failed to load, for messages.
    """

    kind: str
    command: str
    entries: dict[str, Entry] = field(default_factory=dict)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    failures: Callable[[], list[str]] = list

    def add(self, entry: Entry) -> None:
        """Add an entry. If its name is taken already, :meth:`get` refuses the name from then on."""
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
            ConfigError: The name is unknown. The message suggests the nearest name and lists the
                plugins that failed to load.
            PluginError: Several distributions claim the name.
        """
        prefix = name.partition(":")[0] + ":" if ":" in name else name
        key = name if name in self.entries else prefix
        if key in self.conflicts:
            raise PluginError(
                f"{self.kind} {key!r} is registered by {' and '.join(self.conflicts[key])}",
                hint="uninstall one of them, or disable one with SIAMKIT_DISABLE_PLUGINS",
            )
        if key in self.entries:
            return self.entries[key]
        if name.startswith(PYTHON):
            return Entry(name, self._missing_object(name), ObjectOptions, distribution=GIVEN)
        hint = f"{self._near(name)}{command(self.command)} lists them"
        for failure in self.failures():
            hint += f"\nnote: plugin {failure} failed to load: see {command('plugins')}"
        raise ConfigError(f"unknown {self.kind} {name!r}", hint=hint)

    def _near(self, name: str) -> str:
        """Return a question about the names that the user may have meant; empty if there are none.

        Users often leave out a prefix, as in ``resnet18`` for ``timm:resnet18``.
        """
        near = did_you_mean(name, [entry for entry in self.entries if not entry.endswith(":")])
        whole = [f"{entry}{name}" for entry in self.names() if entry.endswith(":")]
        if not whole or ":" in name:
            return f"{near} " if near else ""
        others = " or ".join(map(repr, whole))
        return f"{near.removesuffix('?')} or {others}? " if near else f"did you mean {others}? "

    def _missing_object(self, name: str) -> Callable[..., Any]:
        """Return a ``build`` that raises: the object of the run was not passed again."""
        argument = self.kind.partition(" ")[0]  # "freeze" for "freeze policy"

        def build(*_: Any) -> Any:
            raise ConfigError(
                f"{self.kind} {name.removeprefix(PYTHON)!r} was given as a Python object, which "
                "the run does not store",
                hint="pass it again to the function that opens the run, such as "
                f"siamkit.resume(RUN, {argument}=...)",
            )

        return build


def new_registries() -> dict[str, Registry]:
    """Return an empty registry for each of :data:`KINDS`."""
    return {
        plural: Registry(kind.singular, f"list {plural.replace('_', '-')}")
        for plural, kind in KINDS.items()
    }
