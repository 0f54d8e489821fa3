"""The identity of an object: its qualified name, and a hash of its source code and settings."""

from __future__ import annotations

from functools import partial
from typing import Any

from siamkit.errors import ConfigError
from siamkit.objects.description import Description

UNCOMPARED = (
    "not compared: weights, the code of other modules, global variables that are not plain values, "
    "and the state of objects written in C"
)
"""The parts of an object that :func:`source_hash` does not cover, for messages."""


def qualified_name(thing: Any) -> str:
    """Return the module and qualified name of a function, a class, or an object's class."""
    if isinstance(thing, tuple | list) and thing:  # a loss and its miner
        return "+".join(qualified_name(part) for part in thing)
    if isinstance(thing, partial):
        return qualified_name(thing.func)
    named = thing if isinstance(getattr(thing, "__qualname__", None), str) else type(thing)
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


def source_hash(thing: Any) -> str:
    """Return a hash of an object's source code and settings: 16 hexadecimal digits.

    The hash is the same in every process. :class:`~siamkit.objects.description.Description` lists
    what it covers.

    Raises:
        ConfigError: The object nests too deeply.
    """
    try:
        return Description().of(thing).hex()[:16]
    except RecursionError:
        raise ConfigError(
            "its attributes nest too deeply to be compared with those of a later run",
            where=qualified_name(thing),
            hint="keep long chains of objects out of it",
        ) from None
