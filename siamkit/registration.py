"""Registration: checks each entry while a plugin registers it.

A plugin with a wrong entry is refused, with the reason. Other plugins, lists, schemas and runs are
not affected.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from pydantic import BaseModel, RootModel

from siamkit.errors import PluginError, did_you_mean
from siamkit.registry import KINDS, Entry, NoOptions

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*:?")
_KEYWORDS = ("options", "summary", "pretrained")


class Registrar:
    """The ``register`` function for one plugin and one kind. Collects entries until it is closed.

    Attributes:
        entries: The registered entries.

    Args:
        kind: One of :data:`siamkit.registry.KINDS`.
        distribution: The distribution that registers the entries.
    """

    def __init__(self, kind: str, distribution: str) -> None:
        self.kind, self.distribution = kind, distribution
        self.entries: list[Entry] = []
        self._closed = False

    def __call__(self, name: Any, build: Any = None, **given: Any) -> None:
        """Register ``name``; see :class:`siamkit.hookspecs.Register`.

        Raises:
            PluginError: An argument is wrong, or registration is over.
        """
        if self._closed:
            raise PluginError(
                f"{self.distribution} registered {name!r} after its hook had returned",
                hint="call register inside the hook",
            )
        entry = checked_entry(self.kind, self.distribution, name, build, **given)
        if any(other.name == name for other in self.entries):
            raise PluginError(f"{name!r} is registered twice")
        self.entries.append(entry)

    def close(self) -> None:
        """End registration. A later call raises PluginError."""
        self._closed = True


def checked_entry(kind: str, distribution: str, name: Any, build: Any, **given: Any) -> Entry:
    """Return the entry of one call of ``register``.

    Raises:
        PluginError: An argument is wrong.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            "this name cannot be registered",
            got=name,
            allowed="a-z and 0-9, and after the first character also '-', '_' and '.'; a ':' at "
            "the end only",
        )
    for keyword in given:
        if keyword not in _KEYWORDS:
            raise PluginError(
                f"register of {name!r} has no argument {keyword!r}",
                allowed=", ".join(_KEYWORDS),
                hint=did_you_mean(keyword, _KEYWORDS) or None,
            )
    _require_build(kind, name, build)
    options = given.get("options")
    _require_options(name, NoOptions if options is None else options)
    summary, pretrained = given.get("summary", ""), given.get("pretrained", False)
    if not isinstance(summary, str):
        raise PluginError(f"summary of {name!r} must be text", got=summary)
    if not isinstance(pretrained, bool):
        raise PluginError(f"pretrained of {name!r} must be True or False", got=pretrained)
    summary = (summary or inspect.getdoc(build) or "").strip().partition("\n")[0]
    return Entry(name, build, options or NoOptions, summary, pretrained, distribution)


def _require_build(kind: str, name: str, build: Any) -> None:
    """Refuse a ``build`` that does not accept the arguments of its kind."""
    wanted = KINDS[kind].arguments
    shape = f"build({', '.join(wanted)})"
    if not callable(build):
        raise PluginError(f"build of {name!r} must be callable", got=build, allowed=shape)
    # A module is callable with any arguments, but its forward would get the options.
    if (torch := sys.modules.get("torch")) is not None and isinstance(build, torch.nn.Module):
        raise PluginError(
            f"build of {name!r} must be a function that returns a module, not a module",
            got=type(build),
            allowed=shape,
            hint="pass the module itself to siamkit.fit or siamkit.create_model, which need no "
            "name",
        )
    try:
        signature = inspect.signature(build)
    # Some callables written in C have no readable signature.
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        raise PluginError(
            f"build of {name!r} takes the wrong arguments",
            got=f"build{signature}",
            allowed=shape,
        ) from None


def _require_options(name: str, options: Any) -> None:
    """Refuse an options model that cannot be listed, checked, or written to a config file."""
    if isinstance(options, BaseModel):
        raise PluginError(
            f"options of {name!r} must be a class, not an instance of it",
            got=options,
            hint=f"pass options={type(options).__name__}",
        )
    if not isinstance(options, type) or not issubclass(options, BaseModel):
        raise PluginError(
            f"options of {name!r} must be a pydantic model",
            got=options,
            hint="derive a class from siamkit.Options, with one field per option",
        )
    if issubclass(options, RootModel) or "name" in options.model_fields:
        named = "name" in options.model_fields
        what = "an option called 'name'" if named else "one value without a name"
        raise PluginError(
            f"options of {name!r} cannot hold {what}: a config lists the options beside 'name'",
            hint="give the option another name"
            if named
            else "derive a class from siamkit.Options, with one field per option",
        )
    try:
        options.model_json_schema()
        options.model_construct().model_dump(mode="json", warnings=False)
    except Exception as error:
        raise PluginError(
            f"options of {name!r} cannot be written as JSON, which configs and lists need: {error}",
            hint="use numbers, text, booleans, and lists and mappings of them",
        ) from error
