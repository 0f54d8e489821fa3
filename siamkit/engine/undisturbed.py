"""Trial steps that leave the network unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from siamkit.model.trace import rehearsing


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Put ``net`` into training mode for trial steps, and restore its state afterwards.

    It restores buffers (also those that the forward replaces), gradients, every module's mode and
    the generators' states.
    """
    gradients = [(p, p.grad) for p in net.parameters()]
    buffers = [
        (m, name, buffer)
        for m in net.modules()
        if not isinstance(m, torch.jit.ScriptModule)
        for name, buffer in m._buffers.items()
    ]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with rehearsing(net):
            yield
    finally:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for parameter, gradient in gradients:
            parameter.grad = gradient
