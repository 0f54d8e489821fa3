"""The fingerprint of a tensor: two that are the same bit by bit have the same one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from siamkit.errors import ConfigError


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
