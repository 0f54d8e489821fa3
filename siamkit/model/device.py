"""The device of a network, and the memory layout of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from siamkit.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """Return the device with a name; ``auto`` picks CUDA if available, then MPS, then the CPU.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # torch raises AssertionError where it was built without the device.
    except (RuntimeError, AssertionError, TypeError):
        device = None
    if device is None or device.type == "meta":  # tensors on "meta" hold no values
        raise ConfigError(
            "this machine has no such device",
            where="train.device",
            got=name,
            allowed="auto, cpu"
            + (", cuda" if torch.cuda.is_available() else "")
            + (", mps" if torch.backends.mps.is_available() else ""),
        )
    return device


def float64_device(device: torch.device) -> torch.device:
    """Return a device if it computes in float64, else the CPU."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def free_memory_of(device: torch.device) -> int | None:
    """Return the free memory of a CUDA device, in bytes; None for other kinds of devices."""
    if device.type != "cuda":
        return None
    free: int = torch.cuda.mem_get_info(device)[0]
    # What torch keeps for later use is free for this process.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def place(net: Module, device: torch.device) -> Module:
    """Move a network to a device, and bring its weights into the fastest memory layout.

    Convolutions are fastest in channels_last. The layout stays as it is if the backbone's attribute
    ``channels_last`` is False, because such a backbone does not accept images in channels_last.
    """
    net = net.to(device)
    if not getattr(getattr(net, "backbone", net), "channels_last", True):
        return net
    return net.to(memory_format=torch.channels_last)


def laid_out_for(net: nn.Module, images: Tensor) -> Tensor:
    """Return images on the device of a network, in the memory layout of its weights.

    Args:
        net: The network.
        images: ``[N, C, H, W]``, on any device.
    """
    first = next(chain(net.parameters(), net.buffers()), images)
    return images.to(first.device).contiguous(memory_format=memory_format(net))


def memory_format(net: nn.Module) -> torch.memory_format:
    """Return the memory layout of a network's weights."""
    layouts = map(layout_of, chain(net.parameters(), net.buffers()))
    last: torch.memory_format = torch.channels_last
    return last if last in layouts else torch.contiguous_format


def layout_of(tensor: Tensor) -> torch.memory_format:
    """Return the memory layout of a tensor; contiguous if both layouts are the same for it."""
    last = (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
    return torch.channels_last if last else torch.contiguous_format


@contextmanager
def using_threads(count: int | None) -> Iterator[int]:
    """Make torch and NumPy compute with a number of CPU threads in the block; yield the number.

    Args:
        count: The number of threads; None: as many as torch has.
    """
    before = torch.get_num_threads()
    chosen = before if count is None else count
    with threadpool_limits(chosen, user_api="blas"):
        torch.set_num_threads(chosen)
        try:
            yield chosen
        finally:
            torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[int]:
    """Make torch compute with a single thread within the block.

    Small computations gain nothing from threads. On a busy machine, threads make them slower: each
    operation waits until the system has run all of its threads.
    """
    return using_threads(1)
