"""The builder: builds kernels by their names."""

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
"""All kernels, in the order of their setup time.

``eager`` is the plain network. The others run its captured graph with batch norms merged into the
convolutions before them: as it is (``folded``), in ONNX Runtime, or compiled by ``torch.compile``.
"""


def available(device: torch.device | str) -> dict[str, str | None]:
    """Return for each kernel None if it can be built here, or the reason why it cannot."""
    device = torch.device(device)
    return {
        "eager": None,
        "folded": None,
        "onnxruntime": onnxruntime.missing(device),
        "inductor": inductor.missing(device),
    }


class KernelSource:
    """The source from which kernels are built. Its graph is captured and folded only once.

    Args:
        prefix: Maps images to activations, in eval mode.
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
            raise KernelError(f"the prefix cannot be captured: {_summary(error)}") from error
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
        """Build a kernel, run it on the example, and return it with its output.

        Raises:
            KernelError: The kernel is unknown or unavailable, cannot be built, or does not run.
            Exception: The plain network itself raised; its exception is unchanged.
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
            if name == "eager":  # no kernel is at fault, and memory may be short
                raise
            raise KernelError(f"kernel {name!r} failed: {_summary(error)}") from error
        if output.ndim < 2 or len(output) != len(self.example):
            raise KernelError(
                f"kernel {name!r}: the prefix must return one output per image",
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


def _summary(error: Exception) -> str:
    """Return an error's type and first line, because compilers' messages are very long."""
    first_line = str(error).strip().partition("\n")[0][:200]
    kind = type(error).__name__
    return f"{kind}: {first_line}" if first_line else kind


def build_kernel(
    name: str, prefix: nn.Module, example: Tensor, precision: Precision = "fp32"
) -> Kernel:
    """Build the kernel called ``name`` for ``prefix``.

    Args:
        name: One of :data:`KERNELS`.
        prefix: Maps images ``[N, C, H, W]`` to activations ``[N, ...]``, in eval mode.
        example: ``[B, C, H, W]``, float32, on the network's device; B becomes the batch size.
        precision: The type to compute in, on a GPU.

    Raises:
        KernelError: The kernel is unknown or unavailable, cannot be built, or does not run.
        Exception: The plain network itself raised; its exception is unchanged.
    """
    kernel, _ = KernelSource(prefix, example, precision).start(name)
    return kernel
