"""The data-flow tracker: follows which results of a forward depend on which tensors.

The tracker sees every operation as PyTorch dispatches it, inside and outside of modules, so it
needs no graph of the network. Dependence is tracked per storage, which covers views and in-place
operations. The tracker cannot follow values that leave PyTorch and come back. So its result is a
strong hint, and the trial of a cut (:mod:`siamkit.engine.trial`) is the proof.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Label = Hashable
"""The name of a tensor that is followed."""

_NONE: frozenset[Label] = frozenset()
_TORCH = str(Path(torch.__file__).parent)
_ATEN = torch.ops.aten
_READS = {_ATEN._local_scalar_dense, _ATEN.equal, _ATEN.is_nonzero}
"""Operations that give a tensor's value to Python code, which may branch on it."""
_LEAVES = {"numpy", "tolist", "__array__", "__dlpack__"}
"""Methods of tensors that give all values to code outside PyTorch."""
_SHAPE_ONLY = {
    _ATEN.zeros_like, _ATEN.ones_like, _ATEN.empty_like, _ATEN.full_like, _ATEN.rand_like,
    _ATEN.randn_like, _ATEN.randint_like, _ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_empty,
    _ATEN.new_full, _ATEN.new_empty_strided,
}  # fmt: skip
"""Operations that read only the shape of their first argument."""


class Dataflow(AbstractContextManager["Dataflow"]):
    """Follows marked tensors through everything that runs while it is active.

    Attributes:
        reads: For each value that Python code read: the labels of the marked tensors that the value
            depends on, and the line of code that read it.
        written: The labels of the marked tensors that were changed in place.
    """

    def __init__(self) -> None:
        self.reads: list[tuple[frozenset[Label], str]] = []
        self.written: set[Label] = set()
        self._labels: dict[int, frozenset[Label]] = {}
        self._marked: dict[int, set[Label]] = {}
        # Keeps every storage, so that no two have the same address.
        self._alive: dict[int, Any] = {}
        self._modes = ExitStack()

    def mark(self, tensor: Tensor, label: Label) -> None:
        """Follow ``tensor``, and everything that shares its memory, as ``label``."""
        key = self._key(tensor)
        self._labels[key] = self._labels.get(key, _NONE) | {label}
        self._marked.setdefault(key, set()).add(label)

    def labels(self, values: Any) -> frozenset[Label]:
        """Return the labels of all marked tensors that a tensor in ``values`` depends on."""
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        return _NONE.union(*(self._labels.get(self._key(t), _NONE) for t in tensors))

    def __enter__(self) -> Dataflow:
        """Start following."""
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Departures(self))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop following."""
        self._modes.close()

    def read(self, values: Any) -> None:
        """Record that Python code reads the values of a tensor, as ``.item()`` does."""
        if labels := self.labels(values):
            self.reads.append((labels, _caller()))

    def depend(self, inputs: Any, targets: Sequence[Tensor], run: Callable[[], Any]) -> Any:
        """Run an operation, and record the dependences of its result.

        Args:
            inputs: The values that the operation reads.
            targets: The tensors that the operation writes to.
            run: Runs the operation.
        """
        labels = self.labels(inputs)
        for tensor in targets:
            self.written |= self._marked.get(self._key(tensor), set())
        result = run()
        if labels:
            for leaf in (*targets, *tree_leaves(result)):
                if isinstance(leaf, Tensor):
                    key = self._key(leaf)
                    self._labels[key] = self._labels.get(key, _NONE) | labels
        return result

    def _key(self, tensor: Tensor) -> int:
        try:
            storage: Any = tensor.untyped_storage()
            key = int(storage._cdata)
        except (NotImplementedError, RuntimeError):  # sparse tensors have none
            storage, key = tensor, id(tensor)
        self._alive.setdefault(key, storage)
        return key


class _Operations(TorchDispatchMode):
    """Reports every operation to the tracker."""

    def __init__(self, flow: Dataflow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flow = flow

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in _READS:
            self._flow.read((args, kwargs))
        inputs = (args[1:], kwargs) if packet in _SHAPE_ONLY else (args, kwargs)
        run = partial(func, *args, **kwargs)
        return self._flow.depend(inputs, _written(func, args, kwargs), run)


class _Departures(TorchFunctionMode):
    """Reports to the tracker when code outside PyTorch gets a tensor's values (``.numpy()``).

    PyTorch does not dispatch these methods as operations, so :class:`_Operations` misses them.
    """

    def __init__(self, flow: Dataflow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _LEAVES:
            self._flow.read((args, kwargs))
        return func(*args, **(kwargs or {}))


def _written(func: Any, args: Sequence[Any], kwargs: Any) -> list[Tensor]:
    """Return the arguments that an operation writes to."""
    if not func._schema.is_mutable:
        return []
    schema = func._schema.arguments
    given = [*zip(schema, args, strict=False)]
    given += [(a, kwargs[a.name]) for a in schema[len(args) :] if a.name in kwargs]
    values = [v for argument, v in given if argument.alias_info and argument.alias_info.is_write]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _caller() -> str:
    """Return the innermost line of code outside of PyTorch and of this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path != __file__ and not path.startswith(_TORCH):
            break
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
