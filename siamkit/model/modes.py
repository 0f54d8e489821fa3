"""Eval mode for a while, in several threads at the same time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
        module.eval()
    try:
        yield
    finally:
        with _LOCK:
            for m, mode in zip(modules, modes, strict=True):
                if _release(m, me):
                    m.training = mode


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
