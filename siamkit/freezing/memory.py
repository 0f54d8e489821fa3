"""Memory: the bytes that an optimizer step needs at its peak, by their use."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from siamkit.freezing.allocations import Bytes

_STATE, _PASSING, _ONCE = 0.17, 0.40, 44_000_000
"""The memory that a CPU needs in addition to the tensors: two shares of their size, and a constant.

Most of it is fragmentation. The C library cannot return a freed block to the system while a later
block is in use, and often cannot reuse it for a tensor of the same size, because tensors are
aligned. The weights cause none, because they exist before the step. The optimizer's state is
allocated during the first step, between other tensors. Large blocks have pages of their own:
permanent ones cause no fragmentation, and temporary ones half as much as small blocks, by
measurement. Huge pages, which the commands use, add to it. The constant covers the code of torch
that the first step loads, and the buffers of oneDNN and MKL. ``tests/benchmarks/memory.py --fit``
fits the three numbers.
"""


@dataclass(frozen=True)
class Memory:
    """The memory at the peak of an optimizer step, in bytes.

    Attributes:
        weights: Parameters and buffers, those of the loss included.
        gradients: The gradients that exist at the time of the peak.
        optimizer: The optimizer's state for the parameters that train.
        activations: All other tensors: the images, activations that autograd saves for the backward
            pass, intermediates of the loss, and temporary ones.
        libraries: What the allocator and the libraries of a CPU keep beyond the tensors.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    libraries: int = 0

    @property
    def peak(self) -> int:
        """The sum."""
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        """Return the fields and the ``peak``."""
        return {**asdict(self), "peak": self.peak}


def kept_by_libraries(state: Bytes, passing: Bytes, device: torch.device) -> int:
    """Return the bytes that a device's libraries keep beyond the tensors of a step.

    On CUDA, the peak is what ``torch.cuda.max_memory_allocated`` reports, so there are none.

    Args:
        state: The optimizer's state.
        passing: The tensors that a step makes and frees.
        device: The device.
    """
    if device.type != "cpu":
        return 0
    return round(_STATE * state.small + _PASSING * share_of(passing) + _ONCE)


def share_of(passing: Bytes) -> float:
    """Return the bytes of passing tensors, where large blocks count half."""
    return passing.small + passing.large / 2


def probe_images(channels: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return random images ``[4, C, H, W]`` for a measurement."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, channels, *size, generator=generator).to(device)
