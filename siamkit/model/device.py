"""The device of a name."""

from __future__ import annotations

import torch

from siamkit.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` picks CUDA, then MPS, then the CPU.

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
    if device is None or device.type == "meta":  # whose tensors hold no values
        raise ConfigError(
            "this machine has no such device",
            where="train.device",
            got=name,
            allowed="auto, cpu" + (", cuda" if torch.cuda.is_available() else ""),
        )
    return device
