"""The comparison of a cut network with the whole one in a run: when, and on how many images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from siamkit.errors import SiamkitError, is_out_of_memory

_SECONDS = 0.3
_FEWEST, _MOST = 2, 32


def comparison_is_due(epochs: int) -> bool:
    """Return whether to compare after this many epochs of a phase: 0, 1, 4, 16, 64 and so on."""
    return epochs == 0 or (epochs & (epochs - 1) == 0 and epochs.bit_length() % 2 == 1)


def images_to_compare(prefix_seconds: float) -> int:
    """Return how many images of a batch to compare on: 2 to 32, in 0.3 s of the prefix.

    Args:
        prefix_seconds: Seconds per image in the prefix.
    """
    return min(max(round(_SECONDS / max(prefix_seconds, 1e-9)), _FEWEST), _MOST)


class SuffixError(Exception):
    """The suffix failed on a batch on which the whole network may still run."""


def guarded(suffix: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Return the suffix's output.

    Raises:
        SuffixError: The suffix failed. siamkit's own errors and a lack of memory pass unchanged.
    """
    try:
        return suffix(activations)
    except SiamkitError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SuffixError(f"{type(error).__name__}: {error}") from error
