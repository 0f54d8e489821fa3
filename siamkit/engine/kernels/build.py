"""Building kernels by name."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from siamkit.engine.kernels import inductor, onnxruntime
from siamkit.engine.kernels.base import (
    EagerKernel,
    FoldedKernel,
    Kernel,
    KernelError,
    Precision,
)
from siamkit.engine.kernels.capture import capture
from siamkit.engine.kernels.folding import fold
from siamkit.engine.kernels.inductor import InductorKernel
from siamkit.engine.kernels.onnxruntime import OnnxRuntimeKernel
from siamkit.errors import SiamkitError

KERNELS = ("eager", "folded", "onnxruntime", "inductor")
"""All kernels, in the order of what they cost to build."""


def available(device: torch.device | str) -> dict[str, str | None]:
    """Return, for each kernel, None if it can be built on ``device`` here, or why it cannot."""
    device = torch.device(device)
    return {
        "eager": None,
        "folded": None,
        "onnxruntime": onnxruntime.missing(device),
        "inductor": inductor.missing(device),
    }


class Source:
    """What kernels are built from. The graph is captured and folded once for all of them.

    Args:
        prefix: From images to activations, in eval mode.
        example: ``[B, C, H, W]``, float32, on the network's device; B becomes the batch size.
        precision: The type to compute in, on a GPU.
    """

    def __init__(self, prefix: nn.Module, example: Tensor, precision: Precision) -> None:
        self.prefix = prefix
        self.example = example
        self.precision = precision

    @cached_property
    def graph(self) -> GraphModule:
        """The captured graph, folded.

        Raises:
            KernelError: The prefix cannot be captured.
        """
        try:
            graph = capture(self.prefix, self.example)
            fold(graph)
        except Exception as error:
            raise KernelError(f"the prefix cannot be captured: {_told(error)}") from error
        return graph

    @property
    def nodes(self) -> int:
        """The number of operations in the graph."""
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors that the graph reads."""
        tensors = [*self.graph.parameters(), *self.graph.buffers()]
        return sum(tensor.nbytes for tensor in tensors)

    def start(self, name: str) -> tuple[Kernel, Tensor]:
        """Build a kernel, and return it with its output for the example: it is known to run.

        Raises:
            KernelError: It is unknown or unavailable here, cannot be built, or does not run.
        """
        allowed = ", ".join(KERNELS)
        if name not in KERNELS:
            raise KernelError("unknown kernel", got=name, allowed=allowed)
        device = self.example.device
        if reason := available(device)[name]:
            raise KernelError(f"kernel {name!r} is not available: {reason}")
        try:
            kernel = self._build(name, device)
            output = kernel(self.example)
        except SiamkitError as error:
            raise KernelError(f"kernel {name!r}: {error}") from error
        except Exception as error:
            raise KernelError(f"kernel {name!r} failed: {_told(error)}") from error
        if output.ndim < 2 or len(output) != len(self.example):
            raise KernelError(
                f"kernel {name!r}: the prefix does not give one output for each image",
                got=tuple(output.shape),
            )
        return kernel, output

    def _build(self, name: str, device: torch.device) -> Kernel:
        size, precision = len(self.example), self.precision
        match name:
            case "eager":
                return EagerKernel(self.prefix, size, device, precision)
            case "folded":
                return FoldedKernel(self.graph, size, device, precision)
            case "onnxruntime":
                return OnnxRuntimeKernel(self.graph, self.example, device, precision)
            case _:
                return InductorKernel(self.graph, size, device, precision)


def _told(error: Exception) -> str:
    """Return an error's kind and first line: tracers and compilers write pages."""
    first_line = str(error).strip().partition("\n")[0][:200]
    kind = type(error).__name__
    return f"{kind}: {first_line}" if first_line else kind


def build_kernel(
    name: str, prefix: nn.Module, example: Tensor, precision: Precision = "fp32"
) -> Kernel:
    """Build the kernel called ``name`` for ``prefix``.

    Args:
        name: One of :data:`KERNELS`.
        prefix: From images ``[N, C, H, W]`` to activations ``[N, ...]``, in eval mode.
        example: ``[B, C, H, W]``, float32, on the network's device; B becomes the batch size.
        precision: The type to compute in, on a GPU.

    Raises:
        KernelError: It is unknown or unavailable here, cannot be built, or does not run; with the
            reason.
    """
    kernel, _ = Source(prefix, example, precision).start(name)
    return kernel
