"""Allocations: counts the bytes of the tensors that operations make, and their peak.

It counts tensors with data and torch's fake tensors alike.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGE = 32 << 20
"""The size in bytes from which the C library always gives a block pages of its own."""

_CONVOLUTION = torch.ops.aten.convolution.default
_ITS_BACKWARD = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Bytes:
    """An amount of memory, in bytes.

    Attributes:
        small: The bytes in blocks that are smaller than :data:`LARGE`.
        large: The bytes in larger blocks.
    """

    small: int = 0
    large: int = 0

    @classmethod
    def of(cls, *blocks: Tensor | int) -> Bytes:
        """Return the memory of blocks: of tensors, or of numbers of bytes."""
        sizes = [size_of(block) if isinstance(block, Tensor) else block for block in blocks]
        return cls(sum(n for n in sizes if n < LARGE), sum(n for n in sizes if n >= LARGE))

    @property
    def total(self) -> int:
        """All bytes."""
        return self.small + self.large

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.small + other.small, self.large + other.large)

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.small - other.small, self.large - other.large)

    def __mul__(self, factor: float) -> Bytes:
        return Bytes(round(self.small * factor), round(self.large * factor))


NOTHING = Bytes()


def size_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that are made in its block and still alive.

    Attributes:
        now: The memory that is alive.
        peak: The most that was.
        gradients: The part of ``now`` in gradients of parameters that :meth:`watching` watches.
        gradients_at_peak: The part of ``peak`` in such gradients.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.gradients = self.gradients_at_peak = NOTHING
        self._alive: dict[int, Bytes] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for copies in _copies(func, args, result):
            self.spike(copies)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def spike(self, size: Bytes) -> None:
        """Count memory that is freed at once."""
        most = self.now + size
        if most.total > self.peak.total:
            self.peak, self.gradients_at_peak = most, self.gradients

    def hold(self, size: Bytes) -> None:
        """Count memory that stays."""
        self.now += size
        self.spike(NOTHING)

    def release(self, size: Bytes) -> None:
        """Count memory no longer that :meth:`hold` counted."""
        self.now -= size

    @contextmanager
    def watching(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """In the block, add the gradient of each parameter to ``gradients`` when it is made."""
        seen: set[int] = set()

        def count(parameter: Tensor) -> None:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                self.gradients += Bytes.of(parameter)

        hooks = [p.register_post_accumulate_grad_hook(count) for p in parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = Bytes.of(storage.nbytes())
        self.hold(self._alive[key])
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.release(self._alive.pop(key, NOTHING))


def _copies(func: Any, args: Any, result: Any) -> list[Bytes]:
    """Return the copies that an operation makes for itself, one group after another.

    On a CPU, oneDNN computes a convolution on copies in a layout of its own.
    """
    if func not in (_CONVOLUTION, _ITS_BACKWARD) or args[0].device.type != "cpu":
        return []
    if not torch.backends.mkldnn.is_available() or args[0].dtype == torch.float64:
        return []
    if func is _CONVOLUTION:
        given, weight = args[:2]
        return [Bytes.of(given, weight, result), Bytes.of(result, result)]
    gradient, given, weight = args[:3]
    of_input, of_weight, _ = result
    groups = []
    if of_input is not None:
        groups.append(Bytes.of(gradient, weight, of_input))
    if of_weight is not None:
        kept = () if of_input is None else (of_input,)
        groups.append(Bytes.of(*kept, gradient, given, weight, weight))
    return groups
