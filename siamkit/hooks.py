"""Hook checks: refuse an entry point or a plugin whose hooks would never be called.

pluggy accepts a function without a decorator, a misspelt hook, and a class instead of a module,
and never calls any of them.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from typing import Any

import pluggy

from siamkit import hookspecs
from siamkit.errors import PluginError, did_you_mean

_VALUE = re.compile(r"[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")


def imported(ep: importlib.metadata.EntryPoint) -> Any:
    """Import and return the object that an entry point names.

    Raises:
        PluginError: The entry point is malformed, or its module does not exist.
    """
    value = getattr(ep, "value", None)
    if value is not None and not _VALUE.fullmatch(value):
        raise PluginError(
            "malformed entry point", got=f"{ep.name} = {value}", allowed="NAME = MODULE"
        )
    try:
        return ep.load()
    except ModuleNotFoundError as error:
        if value is None or error.name != value.partition(":")[0].strip():
            raise
        raise PluginError(
            f"the entry point {ep.name!r} names a module that does not exist",
            got=error.name,
            hint="correct the entry point in pyproject.toml and install the plugin again",
        ) from error


def add(manager: pluggy.PluginManager, plugin: Any, key: str) -> None:
    """Register a plugin's hooks.

    Raises:
        PluginError: The plugin has no hook, or one that would never be called.
    """
    bare = [
        name
        for name, value in vars(plugin).items()
        if name.startswith("siamkit_")
        and inspect.isroutine(value)
        and manager.parse_hookimpl_opts(plugin, name) is None
        # A function that was imported from another module is not the plugin's own hook.
        and getattr(value, "__module__", None) == getattr(plugin, "__name__", None)
    ] if hasattr(plugin, "__dict__") else []  # fmt: skip
    if bare:
        raise PluginError(
            "a hook is not decorated, so it would never be called",
            got=bare[0],
            hint="decorate it with @siamkit.hookimpl",
        )
    try:
        if manager.register(plugin, name=key) is None:
            raise PluginError("the entry point's name is blocked")
    except pluggy.PluginValidationError as error:
        raise _misdeclared(manager, error) from error
    if not manager.get_hookcallers(plugin):
        kind = f"an object of type {type(plugin).__name__}"
        what = "a module" if inspect.ismodule(plugin) else kind
        raise PluginError(
            f"the entry point names {what} that implements no hook",
            allowed=", ".join(_hooks()),
            hint="name a module whose hooks are functions decorated with @siamkit.hookimpl",
        )
    if inspect.isclass(plugin):
        raise PluginError(
            "the entry point names a class, whose hooks cannot be called",
            got=plugin.__qualname__,
            hint="name the module or an instance of the class",
        )
    _check_pending(manager)


def _hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("siamkit_")]


def _misdeclared(manager: pluggy.PluginManager, error: pluggy.PluginValidationError) -> PluginError:
    """Return pluggy's error in siamkit's words if it is about a hook's arguments."""
    hook = re.search(r"hook '(\w+)'", str(error))
    arguments = re.search(r"Argument\(s\) \{(.*?)\}", str(error))
    caller = getattr(manager.hook, hook[1], None) if hook else None
    if hook is None or arguments is None or caller is None:
        return PluginError(str(error))
    known = list(caller.spec.argnames)
    wrong = arguments[1].replace("'", "").split(", ")
    return PluginError(
        f"hook {hook[1]!r} has no argument {wrong[0]!r}",
        allowed=", ".join(known),
        hint=did_you_mean(wrong[0], known) or None,
    )


def _check_pending(manager: pluggy.PluginManager) -> None:
    """Refuse a hook that is not in the contract, because it would never be called."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        wrong = re.search(r"unknown hook '(\w+)'", str(error))
        name = wrong[1] if wrong else ""
        raise PluginError(
            "no such hook",
            got=name or None,
            allowed=", ".join(_hooks()),
            hint=did_you_mean(name, _hooks()) or None,
        ) from error
