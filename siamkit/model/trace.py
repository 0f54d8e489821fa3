"""Watching one forward: which module runs when.

Forward hooks only: no ``torch.fx``, which fails on a good part of the models in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Trace:
    """The order in which a module's descendants ran.

    Attributes:
        starts: The tick at which each module that ran was first called, by name.
        ends: The tick at which it last returned.
    """

    starts: Mapping[str, int]
    ends: Mapping[str, int]

    def start(self, name: str) -> int | None:
        """Return the start of ``name``, or of the nearest ancestor that ran, the root left out.

        Some modules only hold parameters that an ancestor uses (fused attention projections).
        """
        while name:
            if name in self.starts:
                return self.starts[name]
            name = parent(name)
        return None

    def ran(self, name: str) -> bool:
        """Tell whether ``name`` itself was called."""
        return name in self.starts

    def ran_within(self, name: str) -> bool:
        """Tell whether a descendant of ``name`` was called."""
        return name in self._with_running_descendants

    @cached_property
    def _with_running_descendants(self) -> frozenset[str]:
        found = set()
        for name in self.starts:
            while name:
                name = parent(name)
                found.add(name)
        return frozenset(found)


def parent(name: str) -> str:
    """Return the name of the module or parameter that holds ``name``; '' is the root."""
    return name.rpartition(".")[0]


def join(prefix: str, name: str) -> str:
    """Return ``prefix.name``, either of which may be empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode without gradients; every module's own mode comes back after."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode


def watch(
    net: nn.Module,
    names: Iterable[str],
    call: Callable[[], object],
    note: Callable[[str, Any], None],
) -> None:
    """Run ``call`` in eval mode, and tell ``note`` the name and output of each module that ran.

    Args:
        net: The network that ``call`` runs.
        names: Modules of it to watch.
        call: Runs it.
        note: Called after each forward of one of them.
    """

    def hook(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        note(name, output)

    handles = [
        net.get_submodule(name).register_forward_hook(partial(hook, name))
        for name in dict.fromkeys(names)
    ]
    try:
        with evaluating(net):
            call()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def rehearsing(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into training mode for a trial step that leaves no trace.

    Buffers, every module's mode and the generators' states are as before afterwards; gradients are
    gone.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    modes = [(m, m.training) for m in module.modules()]
    devices: list[Any] = [d for d in {b.device for b in module.parameters()} if d.type == "cuda"]
    module.train()
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def blank(module: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Return one black image ``[1, C, H, W]`` on the device and in the type of ``module``."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, channels, *size, dtype=like.dtype, device=like.device)


def trace(module: nn.Module, example: Tensor) -> Trace:
    """Run ``module`` once on ``example [1, C, H, W]``, in eval mode, and say what ran when."""
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    tick = iter(range(2**62))

    def enter(name: str, *_: Any) -> None:
        starts.setdefault(name, next(tick))

    def leave(name: str, *_: Any) -> None:
        ends[name] = next(tick)

    handles = []
    try:
        for name, m in module.named_modules():
            handles.append(m.register_forward_pre_hook(partial(enter, name)))
            handles.append(m.register_forward_hook(partial(leave, name)))
        with evaluating(module):
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(starts, ends)
