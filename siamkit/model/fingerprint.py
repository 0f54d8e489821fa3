"""Fingerprints of tensors, and marks of networks: values that show whether something changed.

A fingerprint is computed from every byte of a tensor: two tensors that are equal bit by bit have
the same fingerprint. A mark is much cheaper, because it is mostly computed from torch's counters of
in-place changes. So a mark can be taken before every call of a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.errors import ConfigError

_STATISTICS = 1 << 16
"""A mark reads only buffers of at most this many values. Running statistics have fewer."""


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
    """Return the mark of a network's tensors: a value that changes with a step, a load or a move.

    Computing it takes a few milliseconds for a ResNet-50.
    """
    return mark_of((*module.parameters(), *module.buffers()))


def mark_of(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """Return the mark of some parameters and buffers.

    The mark holds the identity, the place in memory, the type and the version of each tensor. It
    also holds the content of small buffers, because norm layers update their running statistics
    without a new version. A write through ``tensor.data`` does not change the mark.
    """
    tensors = list(tensors)
    small = [t.detach() for t in tensors if not isinstance(t, nn.Parameter) and _is_statistic(t)]
    content = torch.cat([b.cpu().double().flatten() for b in small]) if small else None
    return tuple(map(_place, tensors)), None if content is None else content.numpy().tobytes()


def _is_statistic(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and 0 < buffer.numel() <= _STATISTICS and not buffer.is_meta


def _place(tensor: Tensor) -> tuple[Any, ...]:
    # A tensor made in inference mode has no version, and torch refuses changes outside that mode.
    version = None if tensor.is_inference() else tensor._version
    place = None if tensor.is_meta or is_lazy(tensor) else tensor.data_ptr()
    return id(tensor), version, tensor.dtype, str(tensor.device), place
