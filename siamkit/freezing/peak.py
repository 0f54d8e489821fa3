"""Peak memory: predicts the most memory that a training step needs, without computing anything.

The step runs on tensors without data (torch's fake tensors), so a batch of any size takes seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from siamkit.model.undisturbed import undisturbed

# On a CPU, libraries such as oneDNN keep copies in layouts of their own, and the allocator does not
# return all memory. Fitted on peaks of ResNets and EfficientNets of 0.2 to 2 GB.
_CPU_FACTOR, _CPU_BYTES = 1.22, 20_000_000


class _Watch(TorchDispatchMode):
    """Counts the bytes of all storages that are made in its block and still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def peak_of_step(
    net: nn.Module,
    images: Tensor,
    batch_size: int,
    state_per_parameter: int,
    computing: Callable[[], Any],
) -> int | None:
    """Return the peak memory of a training step, in bytes; None if it cannot be predicted.

    Counted are the weights, the gradients, the optimizer's state, the images, and every tensor that
    the forward and the backward pass make. The loss is not counted.

    Args:
        net: The network, with a plan applied.
        images: An image ``[1, C, H, W]`` with the size and type of the training images.
        batch_size: The number of images in the forward pass.
        state_per_parameter: The values that the optimizer keeps for each value of a parameter.
        computing: Returns the context to compute in, such as autocast.
    """
    own = [*net.parameters(), *net.buffers()]
    trained: int = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    weights: int = sum(t.numel() * t.element_size() for t in own)
    try:
        with undisturbed(net), _fake(net) as step, _Watch() as watch:
            batch = torch.empty(
                batch_size, *images.shape[1:], dtype=images.dtype, device=images.device
            )
            step(batch, computing)
    except Exception:  # an operation that needs values, or that has no fake form
        return None
    tensors: int = weights + watch.peak + trained * state_per_parameter
    if images.device.type != "cpu":
        return tensors
    return round(_CPU_FACTOR * tensors + _CPU_BYTES)


class _Step(nn.Module):
    """A forward and a backward pass. Checkpointed layers run forward again in the backward pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Tensor, computing: Callable[[], Any]) -> None:
        with computing():
            output = self.net(batch)
        if output.requires_grad:
            output.float().square().sum().backward()


@contextmanager
def _fake(net: nn.Module) -> Iterator[Callable[..., None]]:
    """Yield a step of a network on fake copies of its parameters and buffers."""
    step = _Step(net)
    with FakeTensorMode() as mode:
        state: dict[str, Tensor] = {}
        made: dict[int, Tensor] = {}
        named = [
            *step.named_parameters(remove_duplicate=False),
            *step.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in named:
            if id(tensor) not in made:
                made[id(tensor)] = mode.from_tensor(tensor)
            state[name] = made[id(tensor)]
        yield lambda *inputs: torch.func.functional_call(step, state, inputs)
