"""Blank tensors: placeholders for outputs of the frozen prefix that the suffix does not need.

An output gets a placeholder if the rest of the network did not use it in the trial of the cut. A
forward may compute with blank tensors, and the results are blank again. An exception ends the
forward as soon as a blank tensor matters: when Python code reads one of its values, when it is
written into another tensor, or when the network returns it. So a path that the forward takes only
later, or only for some images, is noticed instead of computed with wrong values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from siamkit.errors import SiamkitError

_READS = frozenset(
    ("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "__dlpack__",
     "__contains__", "__iter__", "item", "tolist", "numpy", "equal", "allclose", "is_nonzero")
)  # fmt: skip
"""Functions that give values of a tensor to Python code."""

_STATISTICS = frozenset(("batch_norm", "instance_norm"))
"""Functions that update running statistics in place, which are arguments after the first."""


class SuffixError(SiamkitError):
    """The suffix failed on a batch. The whole network may still run on the same batch."""


class BlankTensor(Tensor):
    """A placeholder for a tensor that was not computed. A use of its values raises SuffixError."""

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and make its result blank.

        Raises:
            SuffixError: The operation gives values to Python code, or writes into a known tensor.
        """
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READS:
            raise _used(f"{name.strip('_')} reads a value")
        if any(_is_known(target) for target in _targets(name, args, kwargs)):
            raise _used(f"{name.strip('_')} writes it into another tensor")
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def blank(tensor: Tensor) -> BlankTensor:
    """Return a blank tensor with the shape and the memory of ``tensor``."""
    return tensor.as_subclass(BlankTensor)


def require_no_blank(value: Any) -> None:
    """Raise an error if a value holds a blank tensor.

    Raises:
        SuffixError: ``value`` holds a blank tensor.
    """
    if any(isinstance(leaf, BlankTensor) for leaf in tree_leaves(value)):
        raise _used("the network returns it")


def _used(how: str) -> SuffixError:
    return SuffixError(
        "the network needs an output of its frozen prefix that the cut network does not compute, "
        f"because the trial of the cut did not need it ({how})",
        hint="run the whole network on this batch; from then on, do not use the cut",
    )


def _is_known(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, BlankTensor)


def _targets(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the tensors that an operation writes to."""
    targets = tree_leaves(kwargs.get("out"))
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        targets += args[:1]
    if name.startswith("__i") and name.endswith("__"):  # += and the like
        targets += args[:1]
    if name in _STATISTICS:
        targets += [value for value in (*args, *kwargs.values()) if _is_statistics(value)]
    return targets


def _is_statistics(value: Any) -> bool:
    return _is_known(value) and not isinstance(value, torch.nn.Parameter)
