"""Capture: traces a prefix into a graph of tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from siamkit.engine.kernels.quiet import quiet


def capture(prefix: nn.Module, example: Tensor) -> GraphModule:
    """Trace ``prefix`` into a graph of ATen operations for batches of ``example``'s shape.

    The tracing uses fake tensors, so it computes nothing. The graph holds only the tensors that the
    prefix reads, and shares them with the network. :func:`torch.export.export` cannot be used: it
    records the nesting of modules and fails when the prefix leaves the network early by an
    exception. This tracer sees operations only.

    Args:
        prefix: Maps images to activations, in eval mode.
        example: Images ``[N, C, H, W]``.

    Raises:
        Exception: The prefix or the tracer failed, for example if control flow depends on values.
    """
    trace = make_fx(prefix, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    with quiet(), torch.no_grad():
        return trace(example)
