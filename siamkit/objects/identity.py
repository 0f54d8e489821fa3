"""The identity of an object: its qualified name, and a hash of its source code and settings."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from typing import Any

from torch import nn


def qualified_name(thing: Any) -> str:
    """Return the module and qualified name of a function, a class, or an object's class."""
    if isinstance(thing, tuple | list) and thing:  # a loss and its miner
        return "+".join(qualified_name(part) for part in thing)
    if isinstance(thing, partial):
        return qualified_name(thing.func)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}".replace("<", "").replace(">", "")


def source_hash(thing: Any) -> str:
    """Return a hash of an object's source code and settings: 16 hexadecimal digits.

    The settings of a module are its printed structure and the shapes of its tensors, not its
    weights. The settings of another object are its plain attributes.
    """
    digest = hashlib.sha256()
    for part in _described(thing):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _described(thing: Any) -> list[str]:
    if isinstance(thing, tuple | list):
        return [text for part in thing for text in _described(part)]
    if isinstance(thing, partial):
        settings = (thing.args, sorted(thing.keywords.items()))
        return [*_described(thing.func), *map(_plain, settings)]
    code = thing if hasattr(thing, "__qualname__") else type(thing)
    parts = [qualified_name(thing), _source(code), *_captured(thing)]
    if isinstance(thing, nn.Module):
        parts.append(repr(thing))
        parts += [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in thing.state_dict().items()]
    elif code is not thing:
        parts += [f"{key}={_plain(value)}" for key, value in sorted(_attributes(thing).items())]
    return parts


def _attributes(thing: Any) -> dict[str, Any]:
    """Return an object's attributes; an object without ``__dict__`` has none."""
    return dict(getattr(thing, "__dict__", {}))


def _plain(value: Any) -> str:
    """Return a value as text that is the same in every process, so without addresses."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _captured(thing: Any) -> list[str]:
    """Return the default arguments of a function, and the variables that it closes over."""
    cells = getattr(thing, "__closure__", None) or ()
    defaults = getattr(thing, "__defaults__", None) or ()
    named = getattr(thing, "__kwdefaults__", None) or {}
    values = [*(cell.cell_contents for cell in cells), *defaults, *sorted(named.items())]
    return [_plain(value) for value in values]


def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # built in, or defined in an interactive session
        compiled = getattr(code, "__code__", None)
        return "" if compiled is None else f"{compiled.co_code.hex()} {compiled.co_consts!r}"
