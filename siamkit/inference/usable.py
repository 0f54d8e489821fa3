"""Checks of embeddings, because a network may return NaN, infinity or only zeros for an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from siamkit.errors import DataError, NonFiniteError


def require_direction(embeddings: Tensor, names: Sequence[object]) -> None:
    """Check that no embedding consists of zeros, because its cosine similarity is undefined.

    Args:
        embeddings: ``[N, E]``.
        names: The name of each image, for messages.

    Raises:
        DataError: An embedding consists of zeros. The message names the image.
    """
    zeros = ~embeddings.any(dim=1)
    if zeros.any():
        raise DataError(
            "the embedding consists of zeros, so it has no similarity to any image",
            where=str(names[int(zeros.nonzero()[0])]),
            hint="the network finds nothing in this image: use larger images or another network",
        )


def require_finite(embeddings: Tensor, names: Sequence[object]) -> None:
    """Check that all embeddings are finite.

    Args:
        embeddings: ``[N, E]``.
        names: The name of each image, for messages.

    Raises:
        NonFiniteError: An embedding holds NaN or infinity. The message names the image.
    """
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        worst = names[int((~finite).nonzero()[0])]
        raise NonFiniteError(
            "the embedding is NaN or infinite",
            where=str(worst),
            hint="check the weights and the image",
        )
