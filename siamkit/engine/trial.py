"""The trial of a cut: compares a step of the suffix with a step of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from siamkit.engine.kernels import TOLERANCE as KERNELS
from siamkit.engine.kernels import kernel_class
from siamkit.engine.kernels import tolerance as kernel_tolerance
from siamkit.engine.undisturbed import undisturbed
from siamkit.model.names import named_parameters
from siamkit.model.trace import evaluating

TOLERANCE = 1e-4
"""Largest allowed difference of outputs, gradients or buffers, relative to their largest value.

For architectures that can be cut, the difference is 0.0, or about 1e-6 if a library picks another
algorithm for another shape. For those that cannot, it is near one.
"""

_SMALL = 1e-3
"""A gradient smaller than this share of the largest one is compared on the scale of the largest.
Some gradients are zero except for rounding, such as those of biases before a batch norm."""

Forward = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step.

    Attributes:
        values: Outputs, gradients and changed buffers, by a description.
        error: The exception that the forward raised, or None.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    error: Exception | None = None


def step(net: nn.Module, forward: Forward, images: Tensor, training: bool = True) -> Outcome:
    """Return the outputs, gradients and changed buffers of a step with a fixed loss and seed.

    The network is unchanged afterwards.
    """
    with undisturbed(net):
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        try:
            torch.manual_seed(0)  # so that dropout after the boundary drops the same values
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
    return Outcome(values)


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
        apart = relative(a, b, floor if name.startswith("the gradient") else 0.0)
        if apart > worst:
            worst, where = apart, name
    return None if worst <= allowed else f"{where} differs by {worst:.1g} of its largest value"


def relative(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """Return the largest difference of two tensors, relative to the largest value of the first.

    It is infinite if only one of them has a NaN or an infinity.
    """
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    scale = max(float(a.abs().nan_to_num(0.0, 0.0).max()), floor, 1e-12)
    apart = float(torch.where(same, 0.0, (a - b).abs()).max()) / scale
    return apart if apart == apart else float("inf")


def allowed_for(images: Tensor, output: Tensor) -> float:
    """Return the largest difference that the arithmetic of a device and a type explain."""
    if output.dtype in (torch.bfloat16, torch.float16):
        return KERNELS["bf16" if output.dtype is torch.bfloat16 else "fp16"]
    return max(TOLERANCE, kernel_tolerance(kernel_class(images.device)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators within the block, and restore their states afterwards."""
    devices: list[Any] = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def sum_of(output: Any) -> Tensor:
    """Return the sum of all tensors in an output that need a gradient; zero if none does."""
    leaves = [v for v in tree_leaves(output) if isinstance(v, Tensor) and v.requires_grad]
    if not leaves:
        return torch.zeros((), requires_grad=True)
    return torch.stack([leaf.float().sum() for leaf in leaves]).sum()


def _backward(output: Any) -> None:
    """Run backward from a fixed loss of all tensors that need a gradient."""

    def weighted(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return None
        return leaf.flatten() * torch.linspace(-1, 1, leaf.numel(), device=leaf.device)

    sum_of([weighted(leaf) for leaf in tree_leaves(output)]).backward()


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _words(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
