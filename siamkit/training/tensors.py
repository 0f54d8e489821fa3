"""The tensors of a run by name, out of its modules and back into them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from siamkit.errors import NonFiniteError
from siamkit.training.build import Setup


def model_tensors(setup: Setup) -> dict[str, Tensor]:
    """Return the state of the network, and of the loss under ``loss.``."""
    loss = {f"loss.{name}": t for name, t in setup.loss.state_dict().items()}
    return {**setup.net.state_dict(), **loss}


def load_model_tensors(setup: Setup, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`model_tensors` returned, strictly."""
    own = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
    setup.loss.load_state_dict(own)
    setup.net.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("loss.")})


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse to save a poisoned network: a buffer can go bad while every loss is finite.

    Raises:
        NonFiniteError: A tensor holds NaN or infinity; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds NaN or infinity, so this state was not saved",
                hint="the checkpoint before is intact; lower the rate (--lr) or use fp32",
            )
