"""The base of kernels: a kernel runs a frozen prefix on batches of one fixed size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.model.device import memory_format

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class KernelError(ConfigError):
    """A kernel (prefix implementation) cannot be built, does not run, or is not exact enough."""


def batch_size(device: torch.device | str) -> int:
    """Return the batch size at which kernels are fastest on ``device``.

    Measured on two CPU cores: unless the network is tiny, ONNX Runtime needs the same time per
    image for 1 to 32 images, and torch is fastest at 4 to 8 (ResNet-50 folded, ms per image at 1,
    4, 8, 16, 32: 62, 51, 49, 56, 61). A GPU needs larger batches.
    """
    return 8 if torch.device(device).type == "cpu" else 64


def kernel_class(device: torch.device | str, precision: Precision = "fp32") -> str:
    """Return the name of the arithmetic that all kernels on ``device`` share, such as ``cpu-fp32``.

    Kernels with the same name form a class. Their outputs agree within the class's tolerance, so a
    cache may mix them. Outputs of different classes must not be mixed. A CPU always runs float32.
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
    """An implementation of a prefix; see :func:`~siamkit.engine.kernels.build_kernel`.

    A kernel may share the network's tensors or copy them, so it is valid until the tensors change.

    Args:
        batch_size: The number of images that every run computes.
        device: The device that the kernel runs on.
        precision: The type that autocast computes in, on a GPU.
    """

    name: ClassVar[str]

    def __init__(self, batch_size: int, device: torch.device, precision: Precision) -> None:
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    def __call__(self, images: Tensor) -> Tensor:
        """Return the prefix's output for ``images``, in float32 and without a gradient.

        Smaller batches are padded to the batch size. So the arithmetic is always the same, and an
        image at the same position of a batch gives bit-equal results.

        Args:
            images: ``[N, C, H, W]``, float32, N from 1 to ``batch_size``, on the kernel's device.

        Returns:
            ``[N, ...]``

        Raises:
            ValueError: The number of images is not in the range from 1 to ``batch_size``.
        """
        rows = len(images)
        if not 1 <= rows <= self.batch_size:
            raise ValueError(
                f"a kernel for batches of 1 to {self.batch_size} images got a batch of {rows}"
            )
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
    """Run a kernel over any number of images, in batches of its size."""
    images = images.to(kernel.device, non_blocking=True)
    parts = [kernel(part) for part in images.split(kernel.batch_size)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class ModuleKernel(Kernel):
    """Runs a module on images in the memory layout of its weights."""

    def __init__(
        self,
        module: nn.Module,
        batch_size: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        super().__init__(batch_size, device, precision)
        self._module = module
        self._layout = memory_format(module)

    def _run(self, images: Tensor) -> Tensor:
        output: Tensor = self._module(images.contiguous(memory_format=self._layout))
        return output


class EagerKernel(ModuleKernel):
    """The unchanged network. It always works, and is the reference for the other kernels."""

    name = "eager"


class FoldedKernel(ModuleKernel):
    """The captured graph with every batch norm folded into the convolution before it."""

    name = "folded"
