"""The hold: keeps modules in eval mode through every ``.train()`` call.

A frozen batch norm must not update its statistics, and a frozen dropout must not drop values: the
frozen part of a network is a fixed function only in eval mode. ``train()`` of a module calls
``child.train(mode)`` of every child. So an instance attribute ``train`` on the held module stops
the call, whichever ancestor's ``train()`` was called first. Modules are never replaced, and
``track_running_stats`` is never changed.

Deep copies, pickles and ``torch.save`` files of a held module are held too. torch makes two kinds
of copies without the instance's attributes, and these copies lose the hold: copies of a TorchScript
module, and the root of a ``torch.fx`` graph module (whose mode has no effect). Apply the plan again
to such a copy.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from siamkit.errors import SiamkitError
from siamkit.model.modes import set_mode

Module = TypeVar("Module", bound=nn.Module)


class _StayInEval:
    """The replacement of the method ``train`` of one held module.

    This is not a bound method, because pickle saves a bound method by name, and the module's class
    has no method of that name.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        if self.module is None:
            raise SiamkitError(
                "train() does not work on this copy of a frozen module",
                hint="apply the freeze plan to the copy",
            )
        return type(self.module).train(self.module, False)

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self.module)
        if (
            kind.__reduce__ is not object.__reduce__
            or kind.__reduce_ex__ is not object.__reduce_ex__
        ):
            # Such a class (a graph module) may save its attributes before itself. If this object
            # then referred to the module, saving would recurse for ever.
            return _StayInEval, (None,)
        # The two objects refer to each other, so the module is restored after this object.
        return _unbound, (), {"module": self.module}


def _unbound() -> _StayInEval:
    return _StayInEval(None)


def hold(module: nn.Module) -> None:
    """Put a module, but not its children, into eval mode until :func:`release`."""
    vars(module).pop("train", None)  # that of an exported program only raises
    set_mode(module, False)
    module.train = _StayInEval(module)  # type: ignore[method-assign]


def release(module: nn.Module, training: bool) -> None:
    """End the hold of a module, so that ``train()`` works again, and set the module's mode."""
    vars(module).pop("train", None)
    set_mode(module, training)


def is_held(module: nn.Module) -> bool:
    """Return whether the module is held in eval mode."""
    return isinstance(vars(module).get("train"), _StayInEval)


def unheld(net: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that are not held."""
    return [module for module in net.modules() if not is_held(module)]
