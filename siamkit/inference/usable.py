"""Checks of embeddings: a network may give NaN for an image, or nothing but zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from siamkit.errors import DataError, NonFiniteError


def require_direction(embeddings: Tensor, names: Sequence[object]) -> None:
    """Refuse to decide about an embedding of zeros, whose cosine similarity is undefined.

    Raises:
        DataError: An embedding consists of zeros; the message names the image.
    """
    zeros = ~embeddings.any(dim=1)
    if zeros.any():
        raise DataError(
            "the embedding consists of zeros, so it has no similarity to any image",
            where=str(names[int(zeros.nonzero()[0])]),
            hint="the network gives nothing for this image: use larger images or another network",
        )


def require_finite(embeddings: Tensor, names: Sequence[object]) -> None:
    """Refuse embeddings that hold NaN or infinity.

    Raises:
        NonFiniteError: An embedding does; the message names the image.
    """
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        worst = names[int((~finite).nonzero()[0])]
        raise NonFiniteError(
            "the embedding is NaN or infinite",
            where=str(worst),
            hint="check the weights and the image",
        )
