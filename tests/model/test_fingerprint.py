from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit.errors import ConfigError
from siamkit.model.fingerprint import fingerprint


def test_a_fingerprint_tells_values_types_and_shapes_apart_and_not_layouts() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) == fingerprint(tensor.contiguous(memory_format=torch.channels_last))
    for other in (tensor.double(), tensor.reshape(2, 3, 4), tensor + 1e-5, tensor.flip(0)):
        assert fingerprint(tensor) != fingerprint(other)


def test_a_tensor_without_values_has_none() -> None:
    with pytest.raises(ConfigError, match="got 'a tensor on the meta device'"):
        fingerprint(torch.ones(2, device="meta"))
    with pytest.raises(ConfigError, match="got 'a parameter of a lazy module'"):
        fingerprint(nn.LazyLinear(2).weight)
