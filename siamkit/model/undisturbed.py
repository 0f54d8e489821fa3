"""Trial runs that leave everything unchanged: buffers, attributes, gradients, modes, generators."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.model.generators import generators_restored

_OWN = frozenset(vars(nn.Module())) | {"train", "forward"}
"""The attributes of a module that torch sets, or that siamkit replaces: ``train`` to hold a frozen
module in eval mode, and ``forward`` to intercept calls."""


def attributes(module: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes, without parameters, buffers and children.

    Examples are counters, running averages in plain tensors, and lists of outputs.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    return {key: value for key, value in vars(module).items() if key not in _OWN}


class Snapshot:
    """The buffers and attributes of modules, as they were when the snapshot was taken.

    The contents of tensors, arrays, lists, dictionaries, sets and queues are kept, at any depth.
    The contents of other objects are not kept.

    Args:
        modules: The modules. Children of a module are only included if they are listed too.
        contents: Whether to keep the contents of buffers and attributes. Otherwise, only the
            references to these objects are kept.
    """

    def __init__(self, modules: Iterable[nn.Module], contents: bool = True) -> None:
        self._modules: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
        self._undo: list[Callable[[], object]] = []
        seen: set[int] = set()
        for module in modules:
            own = attributes(module)
            if not isinstance(module, torch.jit.ScriptModule):
                self._modules.append((module, dict(module._buffers), own))
            if contents:
                for value in (*module.buffers(recurse=False), *own.values()):
                    _keep(value, seen, self._undo)

    def restore(self) -> None:
        """Restore buffers and attributes. Those that were added after the snapshot are removed."""
        for module, buffers, own in self._modules:
            if module._buffers.keys() != buffers.keys():
                module._non_persistent_buffers_set &= buffers.keys()
            module._buffers.clear()
            module._buffers.update(buffers)
            values = vars(module)
            for key in attributes(module).keys() - own.keys():
                del values[key]
            values.update(own)
        with torch.no_grad():
            for undo in self._undo:
                undo()


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Put ``net`` into training mode for trial steps in the block, and restore it afterwards.

    Restored are buffers and attributes (see :class:`Snapshot`), gradients, every module's mode, and
    the generators of torch, numpy and Python. Parameters are not restored.
    """
    modules = list(net.modules())
    # A frozen TorchScript module has no mode.
    modes = [(module, module.training) for module in modules if hasattr(module, "training")]
    gradients = [(p, p.grad) for p in net.parameters()]
    snapshot = Snapshot(modules)
    for parameter, _ in gradients:
        parameter.grad = None
    net.train()
    try:
        with generators_restored(), torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
        snapshot.restore()


def _keep(value: Any, seen: set[int], undo: list[Callable[[], object]]) -> None:
    """Append to ``undo`` the functions that restore the contents of ``value``, at any depth."""
    if id(value) in seen or isinstance(value, nn.Module | nn.Parameter) or is_lazy(value):
        return
    inside: Iterable[Any] = ()
    match value:
        case Tensor():
            copy = value.detach().clone()
            undo.append(lambda: value.detach().copy_(copy))
        case np.ndarray():
            array = value.copy()
            undo.append(lambda: np.copyto(value, array))
        case list():
            items = inside = list(value)
            undo.append(lambda: value.__setitem__(slice(None), items))
        case dict():
            pairs = dict(value)
            inside = pairs.values()
            undo.append(partial(_refill, value, value.update, pairs))
        case set():
            members = set(value)
            undo.append(partial(_refill, value, value.update, members))
        case deque():
            queue = inside = list(value)
            undo.append(partial(_refill, value, value.extend, queue))
        case tuple():
            inside = value
        case _:
            return
    seen.add(id(value))
    for item in inside:
        _keep(item, seen, undo)


def _refill(container: Any, fill: Callable[[Any], object], content: Any) -> None:
    container.clear()
    fill(content)
