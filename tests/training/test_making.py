"""What is checked before a part of a network is quantized."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from siamkit.errors import ConfigError
from siamkit.training import making


def test_a_part_of_several_outputs_is_refused() -> None:
    cut: Any = SimpleNamespace(frontier=SimpleNamespace(is_plain=False))
    nothing: Any = None
    with pytest.raises(ConfigError, match="several tensors cross the boundary"):
        making.made_graph(nothing, cut, torch.ones(1, 3, 8, 8), nothing, "stem", [])


def test_a_graph_that_computes_another_output_is_no_reference() -> None:
    cut: Any = SimpleNamespace(prefix=lambda images: images)
    images = torch.ones(2, 3)
    making._require_same(cut, lambda images: images, images)
    for wrong in (lambda images: 1.1 * images, lambda images: images * torch.nan):
        with pytest.raises(ConfigError, match="ONNX Runtime computes another output"):
            making._require_same(cut, wrong, images)


def test_outputs_that_are_not_finite_are_the_worst() -> None:
    wanted = np.eye(3, dtype=np.float32)
    opposite = making._error(wanted, wanted[::-1].copy())
    assert making._error(wanted, wanted) < opposite < making._error(wanted, wanted * np.nan)
