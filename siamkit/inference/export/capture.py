"""Capture: records a network as a graph, from which every other format is converted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export

from siamkit.engine.kernels.quiet import quiet
from siamkit.errors import ConfigError, is_out_of_memory
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating
from siamkit.spelling import argument

INPUT, OUTPUT = "images", "embeddings"
"""The names of the graph's input and output."""

_LONGEST = 300  # characters of a reason


def capture(net: SiameseNet, images: Tensor) -> ExportedProgram:
    """Return the graph of a network in eval mode, for batches of any size.

    The graph maps prepared images ``[N, C, H, W]`` to embeddings ``[N, E]``, L2-normalised if the
    network's are.

    Args:
        net: The network.
        images: Prepared images ``[N, C, H, W]``, at least two.

    Raises:
        ConfigError: The network cannot be captured. The message gives the reason.
    """
    batch = ({0: Dim.DYNAMIC},)
    try:
        with quiet(), evaluating(net):
            return export(_Embed(net), (images,), dynamic_shapes=batch)
    except Exception as error:  # the types of torch.export are not documented
        raise not_exportable(net, "torch cannot record it as a graph", error) from error


def not_exportable(net: SiameseNet, what: str, error: Exception) -> ConfigError:
    """Return the error that a network cannot be exported, with a library's reason.

    Args:
        net: The network.
        what: What failed.
        error: The library's exception.

    Raises:
        Exception: ``error`` itself, if memory ran out.
    """
    if is_out_of_memory(error):
        raise error
    where = "the network" if net.origin is None else f"backbone {net.origin.backbone.name!r}"
    return ConfigError(
        f"cannot be exported: {what}: {reason(error)}",
        where=where,
        hint=f"{argument('format', 'torch')} works with every network; it needs torch to run",
    )


def reason(error: Exception) -> str:
    """Return the type of an exception and the first sentence of its text."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if any(map(str.isalpha, line))), "")
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Embed(torch.nn.Module):
    """The network's forward with one argument, because a graph has a fixed number of them."""

    def __init__(self, net: SiameseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.net(images)
        return embeddings
