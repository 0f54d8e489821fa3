"""The comparison of a cut network with the whole one: when it is due, and on how many images."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from siamkit.engine.blank import SuffixError
from siamkit.errors import SiamkitError, is_out_of_memory

_SECONDS = 0.2
_FEWEST = 2


def comparison_is_due(epochs: int) -> bool:
    """Return whether a comparison is due after this many epochs of a phase: 0, 4, 16, 64, ..."""
    # The powers of four are the powers of two with an even exponent.
    return not epochs or (not epochs % 4 and not math.log2(epochs) % 2)


def images_to_compare(prefix_seconds: float, batch: int) -> int:
    """Return how many images of a batch to compare on: as many as the prefix computes in 0.2 s.

    So small networks are compared on whole batches. At least two images are compared, if the batch
    has two.

    Args:
        prefix_seconds: Seconds per image in the prefix.
        batch: The number of images in the batch.
    """
    return min(max(round(_SECONDS / max(prefix_seconds, 1e-9)), _FEWEST), batch)


def guarded(suffix: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Return the suffix's output for ``activations [N, ...]``.

    Raises:
        SuffixError: The suffix failed.
        SiamkitError: The suffix raised an error of siamkit; it is raised unchanged.
        Exception: The memory ran out; torch's error is raised unchanged.
    """
    try:
        return suffix(activations)
    except SiamkitError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SuffixError(f"{type(error).__name__}: {error}") from error
