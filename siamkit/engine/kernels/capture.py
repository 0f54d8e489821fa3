"""Capturing a prefix as a graph of tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from siamkit.engine.kernels.quiet import quiet


def capture(prefix: nn.Module, example: Tensor) -> GraphModule:
    """Trace ``prefix`` into a graph of ATen operations for batches of ``example``'s shape.

    No arithmetic runs: the tracing is done on fake tensors. The graph holds what the prefix reads
    and nothing of the layers after it, and it shares these tensors with the live network. A
    prefix may leave the network early by an exception: :func:`torch.export.export` records the
    nesting of modules and stumbles over that, while this tracer sees operations only.

    Args:
        prefix: From images to activations, in eval mode.
        example: ``[N, C, H, W]``

    Raises:
        Exception: Whatever the prefix or the tracer raises, where control flow depends on values.
    """
    trace = make_fx(prefix, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    with quiet(), torch.no_grad():
        return trace(example)
