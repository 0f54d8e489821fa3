"""Memory: measures the bytes that a training step under a plan needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.interfaces import FreezePlan
from siamkit.model.names import named_parameters
from siamkit.model.undisturbed import undisturbed

_PROBE = 2
"""The number of images of the smaller forward. A batch norm in training mode needs two."""


@dataclass(frozen=True)
class Memory:
    """The memory of a training step, in bytes.

    Attributes:
        weights: The bytes of parameters and buffers.
        gradients: The bytes of the gradients of the parameters that train.
        optimizer: The bytes of the optimizer's state for the parameters that train.
        activations: The bytes that autograd saves in the forward pass for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    def to_json(self) -> dict[str, int]:
        """Return the fields and their ``total``."""
        parts = asdict(self)
        return {**parts, "total": sum(parts.values())}


def training_memory(
    net: nn.Module,
    plan: FreezePlan,
    images: Tensor,
    batch_size: int,
    state_per_parameter: int,
    loss: nn.Module | None = None,
) -> Memory:
    """Return the memory of a training step under the plan that was applied to ``net``.

    Args:
        net: The network, with ``plan`` applied.
        plan: The plan.
        images: Four images ``[4, C, H, W]``.
        batch_size: The number of images per forward in training. The bytes that autograd saves are
            a constant (such as standardised weights) plus a part proportional to the number of
            images. So they are measured for two and for four images, and computed for this number.
        state_per_parameter: The number of values that the optimizer keeps for each value of a
            parameter (2 for Adam).
        loss: The loss, whose own parameters train in every phase; None if it has none.
    """
    own = [] if loss is None else list(loss.parameters())
    trained = sum(
        p.numel() * p.element_size()
        for p in (*own, *(p for n, p in named_parameters(net) if n in plan.trainable))
    )
    tensors = [*net.parameters(), *net.buffers(), *own]
    two, four = (saved_activations(net, images[:n]) for n in (_PROBE, 2 * _PROBE))
    per_image = (four - two) / _PROBE
    return Memory(
        weights=sum(t.numel() * t.element_size() for t in tensors),
        gradients=trained,
        optimizer=trained * state_per_parameter,
        activations=round(two + per_image * (batch_size - _PROBE)),
    )


def saved_activations(net: Any, images: Tensor) -> int:
    """Return the bytes that autograd saves in a training forward, counting each storage once.

    Parameters and buffers do not count, because they are in memory anyway.
    """
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    saved: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps every storage alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with undisturbed(net), hooks:
        net(images)
    return sum(saved.values())


def probe_images(channels: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return random images ``[4, C, H, W]`` for a measurement."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2 * _PROBE, channels, *size, generator=generator).to(device)
