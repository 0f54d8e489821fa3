from __future__ import annotations

import pytest
import torch

from siamkit.engine.blank import SuffixError
from siamkit.engine.comparison import comparison_is_due, guarded, images_to_compare
from siamkit.errors import DataError


def test_comparisons_grow_rarer() -> None:
    assert [epoch for epoch in range(300) if comparison_is_due(epoch)] == [0, 4, 16, 64, 256]


@pytest.mark.parametrize(
    ("seconds", "images"), [(1.0, 2), (0.1, 2), (0.05, 4), (1e-6, 64), (0, 64)]
)
def test_a_slow_network_is_compared_on_fewer_images(seconds: float, images: int) -> None:
    assert images_to_compare(seconds, 64) == images


def test_a_failing_suffix_is_told_apart_from_our_errors_and_from_a_lack_of_memory() -> None:
    def failing(error: Exception):
        def suffix(activations: torch.Tensor) -> torch.Tensor:
            raise error

        return suffix

    with pytest.raises(SuffixError, match="ValueError: shape"):
        guarded(failing(ValueError("shape")), torch.ones(1))
    for error in (DataError("x"), MemoryError(), torch.OutOfMemoryError("CUDA"),
                  RuntimeError("DefaultCPUAllocator: can't allocate memory")):  # fmt: skip
        with pytest.raises(type(error)):
            guarded(failing(error), torch.ones(1))
