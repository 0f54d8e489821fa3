"""Trial runs that leave everything unchanged: buffers, attributes, gradients, modes, generators."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.model.generators import generators_restored
from siamkit.model.modes import restore_modes

_OWN = frozenset(vars(nn.Module())) | {"train", "forward"}
"""The attributes of a module that torch sets, or that siamkit replaces: ``train`` to hold a frozen
module in eval mode, and ``forward`` to intercept calls."""


_Contents = dict[int, tuple[Any, Any]]
"""Objects by their identity, each with its content."""


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
        contents: Whether to keep the contents of buffers and attributes, or of attributes alone,
            because buffers can be large. Of the others, only the references are kept.
        over: An earlier snapshot that is not needed any more. The contents of tensors are copied
            over its copies, which takes a third of the time of new ones.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        contents: Literal["attributes"] | bool = True,
        over: Snapshot | None = None,
    ) -> None:
        self._modules = [(module, dict(_buffers(module)), attributes(module)) for module in modules]
        self._contents: _Contents = {}
        if contents:
            for _, buffers, own in self._modules:
                for value in (*(buffers.values() if contents is True else ()), *own.values()):
                    _keep(value, self._contents, over._contents if over is not None else {})

    def restore(self) -> None:
        """Restore buffers and attributes. Those that were added after the snapshot are removed.

        Raises:
            Exception: An object that changed refuses to be written to, such as an array that is
                read-only now. Everything else was restored.
        """
        for module, buffers, own in self._modules:
            if isinstance(module, torch.jit.ScriptModule):
                continue  # its buffers cannot be replaced by others
            if module._buffers.keys() != buffers.keys():
                module._non_persistent_buffers_set &= buffers.keys()
            module._buffers.clear()
            module._buffers.update(buffers)
            values = vars(module)
            for key in attributes(module).keys() - own.keys():
                del values[key]
            values.update(own)
        failed: Exception | None = None
        with torch.no_grad():
            for value, content in self._contents.values():
                try:
                    _refill(value, content)
                except Exception as error:  # whatever a foreign object raises
                    if not _equal(value, content):
                        failed = failed or error
        if failed is not None:
            raise failed

    def changed(self) -> Iterator[tuple[nn.Module, str]]:
        """Yield each buffer and attribute that has another value now: its module and its name.

        Objects whose contents are not kept have another value if they are not equal. So without
        contents in the snapshot, an object that changed in place does not count.
        """
        for module, *parts in self._modules:
            now = {**_buffers(module), **attributes(module)}
            before = {**parts[0], **parts[1]}
            for name in {**before, **now}:
                both = name in before and name in now
                if not both or not self._same(now[name], before[name]):
                    yield module, name

    def _same(self, now: Any, before: Any, path: tuple[int, ...] = ()) -> bool:
        """Return whether ``now`` has the content that ``before`` had.

        Args:
            now: An object.
            before: The object that was in its place when the snapshot was taken.
            path: The identities of the containers that hold ``before``.
        """
        if id(before) in path:  # a container that holds itself
            return now is before
        _, content = self._contents.get(id(before), (None, before))
        if type(now) is not type(before):
            return False
        same = partial(self._same, path=(*path, id(before)))
        match content:
            case list():
                return len(now) == len(content) and all(map(same, now, content))
            case dict():
                return now.keys() == content.keys() and all(
                    same(now[key], value) for key, value in content.items()
                )
        return now is content or _equal(now, content)


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
        try:
            restore_modes(modes)
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            snapshot.restore()


def _buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers by name."""
    if isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_buffers(recurse=False))
    return module._buffers


def _keep(value: Any, contents: _Contents, over: _Contents) -> None:
    """Add ``value`` and what is inside it to ``contents``, each with a copy of its content.

    Args:
        value: Any object.
        contents: What is kept.
        over: What was kept before, whose tensors may be overwritten.
    """
    if id(value) in contents or isinstance(value, nn.Module | nn.Parameter) or is_lazy(value):
        return
    content: Any
    inside: Iterable[Any] = ()
    match value:
        case Tensor():
            content = _copied(value.detach(), over.get(id(value), (None, None))[1])
        case np.ndarray():
            content = value.copy()
        case list() | deque() | tuple():
            content = inside = list(value)
        case dict():
            content = dict(value)
            inside = content.values()
        case set():
            content = set(value)
        case _:
            return
    contents[id(value)] = value, content
    for item in inside:
        _keep(item, contents, over)


def _copied(tensor: Tensor, over: Any) -> Tensor:
    """Return a copy of a tensor: ``over``, if that is a tensor of the same kind."""
    if isinstance(over, Tensor) and over.shape == tensor.shape and over.dtype == tensor.dtype:
        if over.device == tensor.device and over.stride() == tensor.stride():
            return over.copy_(tensor)
    return tensor.clone()


def _once(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a view of a tensor that holds each place in memory once, if the tensor is expanded.

    torch does not write to a tensor whose elements share their memory.

    Args:
        tensor: A tensor.
        like: The tensor of the same shape whose places count; None for ``tensor`` itself.
    """
    like = tensor if like is None else like
    if like.layout == torch.strided:
        for axis, stride in enumerate(like.stride()):
            if stride == 0 and tensor.shape[axis] > 1:
                tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _refill(value: Any, content: Any) -> None:
    """Give ``value`` back its content."""
    match value:
        case Tensor():
            _once(value.detach()).copy_(_once(content, value))
        case np.ndarray():
            np.copyto(value, content)
        case list():
            value[:] = content
        case dict() | set():
            value.clear()
            value.update(content)
        case deque():
            value.clear()
            value.extend(content)


def _equal(a: Any, b: Any) -> bool:
    """Return whether two objects of one type are equal. In tensors and arrays, NaN equals NaN."""
    try:
        match a:
            case Tensor():
                return bool((a.shape == b.shape) and ((a == b) | ((a != a) & (b != b))).all())
            case np.ndarray():
                return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
        return bool(a == b)
    except Exception:  # whatever a foreign object raises
        return False
