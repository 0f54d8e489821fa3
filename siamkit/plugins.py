"""Plugin loading: finds the entry points of all distributions and loads each in isolation.

pluggy's own ``load_setuptools_entrypoints`` lets one broken plugin crash the host and silently
drops duplicate names. ``importlib.metadata.entry_points`` fails as a whole if the file of one
distribution is malformed. So siamkit walks the distributions and entry points itself. A plugin
that fails to load is recorded and shown, and does not affect the others.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pluggy

from siamkit import hooks, hookspecs
from siamkit.errors import PluginError, did_you_mean
from siamkit.registration import Registrar, checked_entry
from siamkit.registry import HERE, KINDS, Entry, Registry, canonical, new_registries

DISABLE_VARIABLE = "SIAMKIT_DISABLE_PLUGINS"
OWN = "siamkit"
UNKNOWN = "unknown"
_ALL = "all"
_SECTION = re.compile(rf"^\s*\[{hookspecs.GROUP}\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class PluginInfo:
    """One entry point of the group ``siamkit``, loaded or not.

    It also stands for a distribution whose ``entry_points.txt`` is malformed.

    Attributes:
        name: The entry point's name; the distribution's name if its file is malformed.
        distribution: The distribution that declares the entry point.
        version: The distribution's version.
        registers: The names that the plugin registered, by kind.
        hooks: The other hooks that the plugin implements, such as ``siamkit_event``.
        error: The reason why the plugin did not load, or None.
    """

    name: str
    distribution: str
    version: str
    registers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Plugins:
    """The loaded plugins and their registries.

    Attributes:
        manager: pluggy's manager, which calls the hooks.
        infos: A record of every entry point, loaded or not.
        registries: The registry of each kind.
    """

    manager: pluggy.PluginManager
    infos: tuple[PluginInfo, ...]
    registries: Mapping[str, Registry]

    @property
    def backbones(self) -> Registry:
        """The registered backbones."""
        return self.registries["backbones"]

    @property
    def heads(self) -> Registry:
        """The registered heads."""
        return self.registries["heads"]

    @property
    def freeze_policies(self) -> Registry:
        """The registered freeze policies."""
        return self.registries["freeze_policies"]

    @property
    def losses(self) -> Registry:
        """The registered losses."""
        return self.registries["losses"]

    @property
    def optimizers(self) -> Registry:
        """The registered optimizers."""
        return self.registries["optimizers"]

    @property
    def schedulers(self) -> Registry:
        """The registered schedulers."""
        return self.registries["schedulers"]

    @property
    def trackers(self) -> Registry:
        """The registered trackers."""
        return self.registries["trackers"]


@dataclass(frozen=True)
class Selection:
    """A selection of third-party plugins to load. siamkit's own are always loaded.

    Attributes:
        only: Names of the entry points or distributions to load; None for all.
        without: Names of the entry points or distributions to leave out.
    """

    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls) -> Selection:
        """Return the selection of ``SIAMKIT_DISABLE_PLUGINS``: comma-separated names or ``all``."""
        names = {n.strip() for n in os.environ.get(DISABLE_VARIABLE, "").split(",") if n.strip()}
        return cls(only=frozenset() if _ALL in names else None, without=frozenset(names))

    def wants(self, name: str, distribution: str) -> bool:
        """Return whether to load the entry point ``name`` of ``distribution``."""
        if distribution == OWN:
            return True
        ids = _canonical({name, distribution})
        return not ids & _canonical(self.without) and (
            self.only is None or bool(ids & _canonical(self.only))
        )


def _canonical(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(canonical, names))


_selection: Selection | None = None


def select(selection: Selection) -> None:
    """Set which plugins :func:`get` loads. The command line's global options call this."""
    global _selection
    _selection = selection
    get.cache_clear()


def selected() -> Selection | None:
    """Return what :func:`select` has set; None if the environment selects."""
    return _selection


@lru_cache(maxsize=1)
def get() -> Plugins:
    """Return the plugins, loaded on first use, with the entries that this process registered."""
    entry_points, malformed = find()
    loaded = load(entry_points, _selection or Selection.from_environment(), malformed)
    for (kind, _), entry in _registered_here.items():
        loaded.registries[kind].add(entry)
    return loaded


_registered_here: dict[tuple[str, str], Entry] = {}


def register(
    kind: str, name: str, build: Callable[..., Any], *, replace: bool = False, **given: Any
) -> None:
    """Register an entry in this process, without a distribution.

    Args:
        kind: One of :data:`siamkit.registry.KINDS`.
        name: The name that the user types.
        build: The build function; see :class:`siamkit.hookspecs.Register`.
        replace: Whether to replace an entry that this process registered under the same name.
        **given: ``options``, ``summary`` and ``pretrained``; see
            :class:`siamkit.hookspecs.Register`.

    Raises:
        PluginError: An argument is wrong, or the name is registered already.
    """
    entry = checked_entry(kind, HERE, name, build, **given)
    if not isinstance(replace, bool):
        raise PluginError(f"the argument replace of {name!r} must be True or False", got=replace)
    registry = get().registries[kind]
    other = registry.entries.get(name)
    if other is not None and other.distribution != HERE:
        raise PluginError(
            f"{registry.kind} {name!r} is registered by {other.distribution}",
            hint="choose another name",
        )
    if other is not None and not replace:
        raise PluginError(
            f"{registry.kind} {name!r} is registered already by this process",
            hint="choose another name, or pass replace=True to replace it (when a notebook's cell "
            "runs again, for example)",
        )
    _registered_here[kind, name] = entry
    registry.entries[name] = entry


def find() -> tuple[list[importlib.metadata.EntryPoint], list[PluginInfo]]:
    """Return the entry points of the group ``siamkit``, and records of malformed distributions.

    A distribution is malformed if its ``entry_points.txt`` cannot be read. If several distributions
    have one name, the first on ``sys.path`` counts, as for imports.
    """
    entry_points: list[importlib.metadata.EntryPoint] = []
    malformed: list[PluginInfo] = []
    seen: set[tuple[str, ...]] = set()
    for distribution in importlib.metadata.distributions():
        text, problem = _declared(distribution)
        if not _SECTION.search(text):
            continue
        name = _known(distribution, "name")
        place = str(distribution.locate_file(""))
        key = (place, text) if name == UNKNOWN else (canonical(name),)
        if key in seen or (name != UNKNOWN and not _comes_first(name, place)):
            continue
        seen.add(key)
        try:
            if problem is not None:
                raise problem
            entry_points += distribution.entry_points.select(group=hookspecs.GROUP)
        except Exception as error:
            version = _known(distribution, "version")
            reason = f"malformed entry_points.txt: {_reason(error)}"
            malformed.append(PluginInfo(name, name, version, error=reason))
    return entry_points, malformed


def _declared(distribution: importlib.metadata.Distribution) -> tuple[str, Exception | None]:
    """Return a distribution's ``entry_points.txt``, and the error if it is not valid UTF-8."""
    try:
        return distribution.read_text("entry_points.txt") or "", None
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "replace"), error
    # A distribution that cannot be read at all is not siamkit's to report.
    except Exception as error:
        return "", error


def _known(distribution: importlib.metadata.Distribution | None, field: str) -> str:
    """Return a distribution's ``name`` or ``version``; ``unknown`` without a METADATA file."""
    try:
        return str(getattr(distribution, field) or UNKNOWN)
    except Exception:
        return UNKNOWN


def _comes_first(name: str, place: str) -> bool:
    """Return whether ``place`` holds the first distribution ``name`` on ``sys.path``."""
    try:
        return str(importlib.metadata.distribution(name).locate_file("")) == place
    # importlib looks a distribution up by the name of its folder. If the folder has another name,
    # importlib finds no distribution at all, so this one comes first.
    except Exception:
        return True


def load(
    entry_points: Iterable[importlib.metadata.EntryPoint],
    selection: Selection | None = None,
    malformed: Iterable[PluginInfo] = (),
) -> Plugins:
    """Load plugins from entry points.

    Args:
        entry_points: The entry points to walk.
        selection: Which plugins to load; all by default.
        malformed: The records of distributions whose entry points cannot be read, to be included
            in the result.

    Raises:
        PluginError: ``selection.only`` names a plugin that isn't installed.
    """
    selection = selection or Selection()
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    registries = new_registries()
    infos: list[PluginInfo] = []
    installed: set[str] = set()
    # siamkit's own first, then by name: the order must not depend on the file system.
    for ep in sorted(entry_points, key=lambda e: (_distribution(e) != OWN, e.name)):
        distribution = _distribution(ep)
        installed |= {ep.name, distribution}
        if selection.wants(ep.name, distribution):
            infos.append(_load_one(manager, registries, ep, distribution))
    for info in sorted(malformed, key=lambda i: i.name):
        installed.add(info.name)
        if selection.wants(info.name, info.distribution):
            infos.append(info)
    known = _canonical(installed)
    if unknown := [n for n in sorted(selection.only or ()) if canonical(n) not in known]:
        near = did_you_mean(unknown[0], installed)
        raise PluginError(
            f"no plugin {unknown[0]!r} is installed",
            allowed=", ".join(sorted(installed)),
            hint=near or None,
        )
    failed = [f"{i.name!r} ({i.distribution})" for i in infos if i.error]
    for registry in registries.values():
        registry.failures = partial(list, failed)
    for name in sorted(selection.without):
        if canonical(name) not in known | {_ALL}:
            near = did_you_mean(name, installed)
            reason = f"{DISABLE_VARIABLE} leaves it out, but no plugin has this name"
            reason = f"{reason}; {near}" if near else reason
            infos.append(PluginInfo(name, UNKNOWN, UNKNOWN, error=reason))
    return Plugins(manager, tuple(infos), registries)


def _distribution(ep: importlib.metadata.EntryPoint) -> str:
    return _known(ep.dist, "name")


def _load_one(
    manager: pluggy.PluginManager,
    registries: Mapping[str, Registry],
    ep: importlib.metadata.EntryPoint,
    distribution: str,
) -> PluginInfo:
    version = _known(ep.dist, "version")
    plugin: Any = None
    try:
        # A plugin's output must not mix with the output of a command, which a program may read.
        with redirect_stdout(sys.stderr):
            loaded = hooks.imported(ep)
            if manager.is_registered(loaded):
                raise PluginError(
                    f"the module is already loaded as plugin {manager.get_name(loaded)!r}"
                )
            key = f"{distribution}:{ep.name}"
            if manager.has_plugin(key):
                raise PluginError(
                    f"the distribution has two entry points named {ep.name!r}",
                    hint="give each a name of its own",
                )
            plugin = loaded
            hooks.add(manager, plugin, key)
            collected = _collect(manager, plugin, distribution)
    # SystemExit too: the import of a plugin must not end the process.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if plugin is not None and manager.is_registered(plugin):
            manager.unregister(plugin)
        return PluginInfo(ep.name, distribution, version, error=_reason(error))
    for kind, entries in collected.items():
        for entry in entries:
            registries[kind].add(entry)
    registers = {kind: tuple(e.name for e in entries) for kind, entries in collected.items()}
    implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    others = tuple(sorted(implemented - {f"siamkit_register_{kind}" for kind in KINDS}))
    return PluginInfo(ep.name, distribution, version, registers, others)


def _collect(
    manager: pluggy.PluginManager, plugin: Any, distribution: str
) -> dict[str, list[Entry]]:
    """Call one plugin's registration hooks and return the entries by kind.

    If one hook fails, none of the plugin's entries is registered.
    """
    others = [p for p in manager.get_plugins() if p is not plugin]
    collected: dict[str, list[Entry]] = {}
    for kind in KINDS:
        registrar = Registrar(kind, distribution)
        hook = manager.subset_hook_caller(f"siamkit_register_{kind}", others)
        try:
            hook(register=registrar)
        finally:
            registrar.close()
        if registrar.entries:
            collected[kind] = registrar.entries
    return collected


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"SystemExit({error.code}) while loading"
    return f"{type(error).__name__}: {error}"
