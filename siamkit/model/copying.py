"""Copies of a user's modules: a run trains the copy, so the user's own module stays unchanged."""

from __future__ import annotations

from copy import deepcopy
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from siamkit.errors import ConfigError

T = TypeVar("T")


def copied(thing: T, where: str) -> T:
    """Return a deep copy of a module, or of another object, that can be trained.

    Args:
        thing: The object.
        where: The argument by which the object was given, for errors.

    Raises:
        ConfigError: The object cannot be copied. The message names the attribute at fault.
    """
    try:
        twin = deepcopy(thing)
    except Exception as error:  # the type depends on the attribute
        attribute = _uncopyable(thing)
        raise ConfigError(
            "cannot be copied, but a run works on a copy: "
            + (f"its attribute {attribute}: " if attribute else "")
            + f"{type(error).__name__}: {error}",
            where=where,
            got=type(thing),
            hint="remove what cannot be copied from the object, or define __deepcopy__",
        ) from error
    if isinstance(thing, nn.Module) and isinstance(twin, nn.Module):
        _detach(thing, twin)
    return twin


def _detach(module: nn.Module, twin: nn.Module) -> None:
    """Make a copy's parameters independent of the originals, to which TorchScript connects them."""
    for original, parameter in zip(module.parameters(), twin.parameters(), strict=True):
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_(original.requires_grad)


def _uncopyable(thing: Any) -> str | None:
    """Return the name of the first attribute that cannot be copied; None if that is not clear."""
    owners = dict(thing.named_modules()) if isinstance(thing, nn.Module) else {"": thing}
    plain = vars(nn.Module()).keys()
    for prefix, owner in owners.items():
        for name, value in getattr(owner, "__dict__", {}).items():
            try:
                if name not in plain and not isinstance(value, MethodType):
                    deepcopy(value)
            except Exception:  # the type depends on the attribute
                return f"{prefix}.{name}" if prefix else name
    return None
