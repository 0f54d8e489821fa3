"""The tensors of a run: reads them from its modules by name, and writes them back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from siamkit.errors import NonFiniteError
from siamkit.spelling import setting
from siamkit.training.build import Setup


def model_tensors(setup: Setup) -> dict[str, Tensor]:
    """Return the network's state by name, and the loss's state with the prefix ``loss.``."""
    loss = {f"loss.{name}": t for name, t in setup.loss.state_dict().items()}
    return {**setup.net.state_dict(), **loss}


def load_model_tensors(setup: Setup, tensors: Mapping[str, Tensor]) -> None:
    """Restore the tensors that :func:`model_tensors` returned, strictly."""
    own = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
    setup.loss.load_state_dict(own)
    setup.net.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("loss.")})


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that no tensor holds NaN or infinity; a buffer may while every loss is finite.

    Raises:
        NonFiniteError: A tensor holds NaN or infinity; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds NaN or infinity, so this state was not saved",
                hint="the previous checkpoint is intact; lower the learning rate "
                f"({setting('optimizer.lr')}) or use fp32",
            )
