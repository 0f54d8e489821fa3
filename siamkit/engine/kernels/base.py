"""What a kernel is: a frozen prefix, run on batches of one fixed size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from siamkit.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class KernelError(ConfigError):
    """A kernel cannot be built for this network, does not run, or is not exact enough."""


def batch_size(device: torch.device | str) -> int:
    """Return the number of rows that kernels run best with on ``device``.

    Measured on two CPU cores: ONNX Runtime takes as long an image at 1 as at 32 images unless the
    network is tiny, and torch is best at 4 to 8 (ResNet-50 folded, ms an image at 1, 4, 8, 16, 32:
    62, 51, 49, 56, 61). A GPU wants more to be filled.
    """
    return 8 if torch.device(device).type == "cpu" else 64


def kernel_class(device: torch.device | str, precision: Precision = "fp32") -> str:
    """Return the name of the numerics that every kernel on ``device`` shares.

    Outputs of one class agree within its tolerance, so they may stand in for one another in a
    cache; those of different classes may not. A CPU always runs float32.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return "cpu-fp32"
    if precision == "fp32" and (
        torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
        or torch.get_float32_matmul_precision() != "highest"
    ):
        return f"{kind}-tf32"
    return f"{kind}-{precision}"


class Kernel(ABC):
    """A way of running a prefix. Build one with :func:`~siamkit.engine.kernels.build_kernel`.

    It reads the network's tensors where it can, so it is good for as long as they do not change.

    Args:
        batch_size: The number of rows that every run computes.
        device: Where it runs.
        precision: The type that autocast computes in, on a GPU.
    """

    name: ClassVar[str]

    def __init__(self, batch_size: int, device: torch.device, precision: Precision) -> None:
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    def __call__(self, images: Tensor) -> Tensor:
        """Return the prefix's output for ``images``, in float32 and without a gradient.

        Fewer rows than the batch size are padded up to it: the same arithmetic runs whatever
        comes along, so a row at one place of a batch has one result, to the bit.

        Args:
            images: ``[N, C, H, W]``, float32, N from 1 to ``batch_size``, on the kernel's device.

        Returns:
            ``[N, ...]``

        Raises:
            ValueError: The number of rows does not fit.
        """
        rows = len(images)
        if not 1 <= rows <= self.batch_size:
            raise ValueError(f"a kernel of {self.batch_size} rows got a batch of {rows}")
        if rows < self.batch_size:
            padding = images[:1].expand(self.batch_size - rows, *images.shape[1:])
            images = torch.cat([images, padding])
        with torch.no_grad(), self._autocast():
            return self._run(images)[:rows].float()

    @abstractmethod
    def _run(self, images: Tensor) -> Tensor:
        """Return the output for a whole batch, ``[batch_size, C, H, W]`` in any layout."""

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST.get(self.precision) if self.device.type != "cpu" else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def run(kernel: Kernel, images: Tensor) -> Tensor:
    """Run a kernel over any number of images, as many at a time as it takes."""
    images = images.to(kernel.device, non_blocking=True)
    parts = [kernel(part) for part in images.split(kernel.batch_size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class ModuleKernel(Kernel):
    """Runs a module as it is, on channels_last images, which convolutions are fastest on."""

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        batch_size: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        super().__init__(batch_size, device, precision)
        self._module = module

    def _run(self, images: Tensor) -> Tensor:
        return self._module(images.contiguous(memory_format=torch.channels_last))


class EagerKernel(ModuleKernel):
    """The network as it is: works always, and is what the others are measured by."""

    name = "eager"


class FoldedKernel(ModuleKernel):
    """The captured graph with every batch norm folded into the convolution before it."""

    name = "folded"
