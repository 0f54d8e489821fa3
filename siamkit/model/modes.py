"""The modes of modules: eval mode for a while, and a mode for one module alone.

Modules may override ``train``: some merge weights in eval mode, and take them apart in train mode.
So a mode is always set by the module's own ``train``, and never by its flag alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import nn


@dataclass(frozen=True)
class _Held:
    """A module that threads hold in eval mode.

    Attributes:
        mode: Its own mode, which the last thread restores.
        threads: How often each thread holds it.
    """

    mode: bool
    threads: Counter[int] = field(default_factory=Counter)


_HELD: dict[int, _Held] = {}
"""The held modules by their identity. They live as long as a thread holds them."""

_LOCK = threading.Lock()


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode within the block, then restore the modes of all its modules.

    If other threads use the module in eval mode too, the last one restores the modes. Otherwise the
    module would run in train mode in the others, and update its running statistics.
    """
    # Frozen TorchScript has no mode.
    modules = [m for m in module.modules() if hasattr(m, "training")]
    me = threading.get_ident()
    with _LOCK:
        modes = [_hold(m, me) for m in modules]
    try:
        with _LOCK:
            module.eval()
        yield
    finally:
        with _LOCK:
            restore_modes(
                [(m, mode) for m, mode in zip(modules, modes, strict=True) if _release(m, me)]
            )


def restore_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Set the modes that modules had before, also if the own ``train`` of one of them fails.

    Args:
        modes: Each module with its mode, parents before their children.
    """
    try:
        for module, training in reversed(modes):
            set_mode(module, training)
    finally:
        for module, training in modes:
            module.training = training


def set_mode(module: nn.Module, training: bool) -> None:
    """Set the mode of a module, but not of its children, as its own ``train`` does."""
    if module.training != training and _overrides_train(module):
        with _children_kept(module):
            module.train(training)
    module.training = training


def _overrides_train(module: nn.Module) -> bool:
    return "train" in vars(module) or type(module).train is not nn.Module.train


@contextmanager
def _children_kept(module: nn.Module) -> Iterator[None]:
    """Let calls of the children's ``train`` do nothing within the block."""
    children = list(module.children())
    own = [vars(child).get("train") for child in children]
    for child in children:
        vars(child)["train"] = partial(_kept, child)
    try:
        yield
    finally:
        for child, train in zip(children, own, strict=True):
            del vars(child)["train"]
            if train is not None:
                vars(child)["train"] = train


def _kept(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _hold(module: nn.Module, thread: int) -> bool:
    """Note that a thread holds a module, and return the mode to restore."""
    held = _HELD.setdefault(id(module), _Held(module.training))
    shared = any(other != thread for other in held.threads)
    held.threads[thread] += 1
    return held.mode if shared else module.training


def _release(module: nn.Module, thread: int) -> bool:
    """Note that a thread releases a module; return whether no other thread holds it."""
    held = _HELD[id(module)]
    held.threads[thread] -= 1
    if not held.threads[thread]:
        del held.threads[thread]
    if not held.threads:
        del _HELD[id(module)]
    return all(other == thread for other in held.threads)
