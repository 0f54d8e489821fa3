"""The trial of a cut: compares a training step of the suffix with one of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from siamkit.engine.blank import BlankTensor
from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels import TOLERANCE as KERNELS
from siamkit.engine.kernels import kernel_class
from siamkit.engine.kernels import tolerance as kernel_tolerance
from siamkit.errors import SiamkitError
from siamkit.model.generators import seeded
from siamkit.model.names import join, named_modules, named_parameters, submodule
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import attributes, undisturbed

TOLERANCE = 1e-4
"""Largest allowed difference of outputs, gradients or buffers, relative to their largest value.

For architectures that can be cut, the difference is 0.0, or about 1e-6 if a library picks another
algorithm for another shape. For architectures that cannot be cut, the difference is near one.
"""

_SMALL = 1e-3
"""A gradient smaller than this share of the largest one is compared on the scale of the largest.
Some gradients are zero except for rounding, such as those of biases before a batch norm."""

ATTRIBUTE = "the attribute"
"""The first words of an attribute's description in an outcome."""

Forward = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step.

    Attributes:
        values: Outputs, gradients, and changed buffers and attributes, by their descriptions.
        error: The exception that the forward raised, or None.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None


def step(
    net: nn.Module,
    forward: Forward,
    images: Tensor,
    inside: Sequence[str],
    training: bool = True,
) -> Outcome:
    """Return the outcome of a step with a fixed loss and seed; the network is unchanged afterwards.

    Args:
        net: The network.
        forward: Runs the network, whole or cut.
        images: The batch.
        inside: Names of the prefix's modules. Their attributes are left out, because the suffix
            does not run these modules.
        training: Whether to run in training mode and backward.
    """
    with undisturbed(net), seeded(0):  # so that dropout drops the same values
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        kept = {name: _detached(value) for name, value in _attributes(net, inside)}
        try:
            if training:
                output = forward(images)
                _backward(output)
            else:
                with evaluating(net):
                    output = forward(images)
        except Exception as error:  # the network's own code
            return Outcome(error=error)
        pairs, _ = tree_flatten_with_path(output)
        values = {f"output{keystr(path)}": _detached(value) for path, value in pairs}
        for name, parameter in named_parameters(net):
            if parameter.grad is not None:
                values[f"the gradient of {name!r}"] = parameter.grad.clone()
        for name, buffer in net.named_buffers():
            if name not in before or not torch.equal(buffer, before[name]):
                values[f"the buffer {name!r}"] = buffer.clone()
        for name, value in _attributes(net, inside):
            if name not in kept or not _same(value, kept[name]):
                values[f"{ATTRIBUTE} {name!r}"] = _detached(value)
    return Outcome(values)


def _attributes(net: nn.Module, inside: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the numbers, texts, arrays and tensors in modules' attributes, each with a name."""
    left_out = {id(m) for name in inside for m in submodule(net, name).modules()}
    for prefix, module in named_modules(net):
        own = {} if id(module) in left_out else attributes(module)
        for key, held in own.items():
            for path, value in tree_flatten_with_path(held)[0]:
                if isinstance(value, Tensor | np.ndarray | int | float | str):
                    yield f"{join(prefix, key)}{keystr(path)}", value


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, BlankTensor):
        return a is b
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(np.array_equal(a, b))


def difference(whole: Outcome, parts: Outcome, allowed: float) -> str | None:
    """Return the difference between the cut network and the whole one as text, or None.

    Args:
        whole: The outcome of the whole network.
        parts: The outcome of the cut network.
        allowed: The largest relative difference that is accepted.
    """
    if whole.error or parts.error:
        errors = [_words(o.error) for o in (whole, parts)]
        if errors[0] == errors[1]:
            return None
        which, error = ("cut", errors[1]) if parts.error else ("whole", errors[0])
        return f"the {which} network fails: {error}"
    for name in [*whole.values, *parts.values]:
        if (name in whole.values) != (name in parts.values):
            kind = "whole" if name in whole.values else "cut"
            return f"only the {kind} network has or changes {name}"
    gradients = [v for n, v in whole.values.items() if n.startswith("the gradient")]
    floor = _SMALL * max((float(g.abs().max()) for g in gradients if g.numel()), default=0.0)
    worst, where = 0.0, ""
    for name, a in whole.values.items():
        b = parts.values[name]
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if a is not b and a != b:
                return f"{name} is {b!r}, not {a!r}"
            continue
        if a.shape != b.shape:
            return f"{name} has the shape {list(b.shape)}, not {list(a.shape)}"
        least = floor if name.startswith("the gradient") else 0.0
        apart = relative_difference(b, a, floor=least, equal_nan=True)
        if apart > worst:
            worst, where = apart, name
    return None if worst <= allowed else f"{where} differs by {worst:.1g} of its largest value"


def allowed_for(images: Tensor, output: Tensor) -> float:
    """Return the largest difference that arithmetic on this device and in this type explains."""
    if output.dtype in (torch.bfloat16, torch.float16):
        return KERNELS["bf16" if output.dtype is torch.bfloat16 else "fp16"]
    return max(TOLERANCE, kernel_tolerance(kernel_class(images.device)))


def sum_of(output: Any) -> Tensor:
    """Return the sum of all tensors in an output that need a gradient; zero if none does."""
    leaves = [v for v in tree_leaves(output) if isinstance(v, Tensor) and v.requires_grad]
    if not leaves:
        return torch.zeros((), requires_grad=True)
    return torch.stack([leaf.float().sum() for leaf in leaves]).sum()


def _backward(output: Any) -> None:
    """Run backward from a fixed loss, over all tensors in the output that need a gradient."""

    def weighted(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return None
        return leaf.flatten() * torch.linspace(-1, 1, leaf.numel(), device=leaf.device)

    sum_of([weighted(leaf) for leaf in tree_leaves(output)]).backward()


def _detached(value: Any) -> Any:
    """Return a copy of a value, so that later operations do not change it."""
    if isinstance(value, BlankTensor):
        return "a value that the suffix does not compute"
    if isinstance(value, np.ndarray):
        return torch.tensor(value) if value.dtype.kind in "biufc" else str(value)
    return value.detach().clone() if isinstance(value, Tensor) else value


def _words(error: Exception | None) -> str:
    if error is None:
        return ""
    if isinstance(error, SiamkitError):
        return error.what
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
