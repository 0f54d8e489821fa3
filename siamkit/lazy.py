"""Lazy names: a package's public names, each loaded on its first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Getter = Callable[[str], Any]


def lazily(
    package: str, home: Mapping[str, Iterable[str]], renamed: Mapping[str, str] | None = None
) -> tuple[Getter, Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package that loads its names late (PEP 562).

    Args:
        package: The package's name.
        home: The public names by the module that defines them.
        renamed: The name in its module, for each public name that differs from it.
    """
    module_of = {name: module for module, names in home.items() for name in names}
    own = renamed or {}

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of[name]), own.get(name, name))

    def __dir__() -> list[str]:
        return list(importlib.import_module(package).__all__)

    return __getattr__, __dir__
