"""Copies of a user's modules: a run trains the copy, so the user's own module stays unchanged."""

from __future__ import annotations

from copy import deepcopy
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.errors import ConfigError

T = TypeVar("T")


def copied(thing: T, where: str) -> T:
    """Return a deep copy of a module, or of another object, that can be trained.

    Args:
        thing: The object.
        where: The argument by which the object was given, for errors.

    Raises:
        ConfigError: The object cannot be copied. The message names the attribute at fault. Or two
            tensors of the copy would no longer share memory.
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
            hint="take the part that cannot be copied out of the object, or define __deepcopy__",
        ) from error
    if isinstance(thing, nn.Module) and isinstance(twin, nn.Module):
        _detach(thing, twin)
        _require_same_sharing(thing, twin, where)
    return twin


def _detach(module: nn.Module, twin: nn.Module) -> None:
    """Make a copy's parameters independent of the originals, to which TorchScript connects them."""
    for original, parameter in zip(module.parameters(), twin.parameters(), strict=True):
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_(original.requires_grad)


def _require_same_sharing(module: nn.Module, twin: nn.Module, where: str) -> None:
    """Check that tensors that share memory share it in the copy too.

    A copy of a parameter has memory of its own, so a buffer that is a view of the parameter would
    keep the values of before the training.
    """
    lost = sorted(_sharing(module) - _sharing(twin))
    if lost:
        one, other = lost[0]
        raise ConfigError(
            f"{one} and {other} share memory, and copies of them would not, but a run works on a "
            "copy",
            where=where,
            hint=f"compute {other} from {one} in forward, or use one nn.Parameter under both names",
        )


def _sharing(module: nn.Module) -> set[tuple[str, str]]:
    """Return pairs of names of parameters and buffers that overlap in memory."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    places = sorted(
        (tensor.data_ptr(), _end(tensor), name)
        for name, tensor in tensors
        if not is_lazy(tensor)  # it has no memory yet
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and tensor.numel()
    )
    shared, reach, owner = set(), 0, ""
    for start, end, name in places:
        if start < reach:
            shared.add((owner, name))
        if end > reach:
            reach, owner = end, name
    return shared


def _end(tensor: Tensor) -> int:
    """Return the address after the last value of a tensor."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


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
