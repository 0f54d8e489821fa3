"""Keeping modules in eval mode through every ``.train()`` call.

A frozen batch norm must not update its statistics, and a frozen dropout must not drop: the frozen
part of a network is a fixed function only in eval mode. ``train()`` recurses through
``child.train(mode)``, so an instance attribute ``train`` on the held module answers for it,
whichever ancestor the call starts at. Modules are never swapped, and ``track_running_stats`` is
never touched.
"""

from __future__ import annotations

from types import MethodType
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def _stay_in_eval(module: Module, mode: bool = True) -> Module:
    return type(module).train(module, False)


def hold(module: nn.Module) -> None:
    """Put one module (not its children) into eval mode until :func:`release`."""
    module.training = False
    module.train = MethodType(_stay_in_eval, module)  # type: ignore[method-assign]


def release(module: nn.Module, training: bool) -> None:
    """Let ``train()`` reach the module again, and set its mode."""
    vars(module).pop("train", None)
    module.training = training


def is_held(module: nn.Module) -> bool:
    """Tell whether the module is held in eval mode."""
    return isinstance(vars(module).get("train"), MethodType)
