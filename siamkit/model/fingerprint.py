"""The fingerprint of a tensor, and the mark of a network that tells cheaply that it changed.

Two tensors that are the same bit by bit have the same fingerprint. It reads every byte. A mark
reads torch's counters of in-place changes, so that it can be taken before every call.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.errors import ConfigError

_STATISTICS = 1 << 16
"""The largest number of values of a buffer that a mark reads: running statistics have fewer."""


def fingerprint(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and values, independent of its memory layout.

    Raises:
        ConfigError: The tensor has no values yet.
    """
    if tensor.is_meta or is_lazy(tensor):
        raise ConfigError(
            "a parameter has no values yet, so its freezing cannot be verified",
            got="a tensor on the meta device" if tensor.is_meta else "a parameter of a lazy module",
            hint="load the weights or run the network once before applying a freeze plan",
        )
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def mark(module: nn.Module) -> tuple[Any, ...]:
    """Return a value that changes when a network's tensors do: with a step, a load or a move.

    It holds the identity, the place, the type and the version of each tensor, and the content of
    small buffers, since norm layers move their running statistics without a new version. A write
    through ``tensor.data`` leaves it unchanged. It takes a few milliseconds for a ResNet-50.
    """
    buffers = [b.detach() for b in module.buffers() if _is_statistic(b)]
    content = torch.cat([b.double().flatten().cpu() for b in buffers]) if buffers else None
    tensors = (*module.parameters(), *module.buffers())
    return tuple(map(_place, tensors)), None if content is None else content.numpy().tobytes()


def _is_statistic(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and 0 < buffer.numel() <= _STATISTICS and not buffer.is_meta


def _place(tensor: Tensor) -> tuple[Any, ...]:
    # A tensor that was made in inference mode has no version; torch refuses changes outside it.
    version = None if tensor.is_inference() else tensor._version
    place = None if tensor.is_meta or is_lazy(tensor) else tensor.data_ptr()
    return id(tensor), version, tensor.dtype, str(tensor.device), place
