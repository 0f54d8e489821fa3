from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from siamkit.errors import FrozenDriftError
from siamkit.freezing.proof import fingerprint, fingerprints, require_unchanged, verify


def test_the_memory_layout_does_not_matter() -> None:
    tensor = torch.randn(2, 3, 4, 5)
    assert fingerprint(tensor) == fingerprint(tensor.contiguous(memory_format=torch.channels_last))


def test_shape_and_type_matter() -> None:
    zeros = torch.zeros(4)
    others = (zeros.view(2, 2), zeros.to(torch.int32), torch.zeros(5))
    assert len({fingerprint(t) for t in (zeros, *others)}) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_type_can_be_fingerprinted(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, dtype=dtype)
    changed = tensor.clone()
    changed[1] = 0
    assert fingerprint(tensor) != fingerprint(changed)
    assert fingerprint(torch.tensor(1, dtype=dtype)) == fingerprint(torch.tensor(1, dtype=dtype))


@given(st.integers(0, 11))
def test_the_smallest_change_anywhere_shows(index: int) -> None:
    tensor = torch.ones(12)
    changed = tensor.clone()
    changed[index] = torch.nextafter(tensor[index], torch.tensor(2.0))
    assert fingerprint(tensor) != fingerprint(changed)


@pytest.mark.parametrize(
    ("count", "named"), [(5, "layer 4"), (6, "layer 4 and 1 more"), (8, "layer 4 and 3 more")]
)
def test_of_many_drifted_tensors_five_are_named(count: int, named: str) -> None:
    before = {f"layer {i}": fingerprint(torch.zeros(2)) for i in range(count)}
    after = {name: torch.ones(2) for name in before}
    with pytest.raises(FrozenDriftError, match=rf"{count} frozen tensors .*{named}($|[,;(])"):
        require_unchanged(after, before, "the end of epoch 1")


def test_drift_is_an_error_that_names_the_tensor() -> None:
    net = nn.BatchNorm1d(2)
    expected = fingerprints(net, ["weight", "running_mean"])
    verify(net, expected, "now")
    net.running_mean.add_(1)
    with pytest.raises(
        FrozenDriftError, match=r"1 frozen tensor had changed at epoch 3: running_mean"
    ) as caught:
        verify(net, expected, "epoch 3")
    assert "a module's change to train or eval mode" in str(caught.value)


@pytest.mark.parametrize("how", ["no bias", "weight norm", "another module"])
def test_a_tensor_that_is_gone_has_drifted(how: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    expected = fingerprints(net, [name for name, _ in net.named_parameters()])
    if how == "no bias":
        net[0].bias = None
    elif how == "weight norm":
        nn.utils.parametrizations.weight_norm(net[0])
    else:
        net[0] = nn.Identity()
    name = "0.bias" if how == "no bias" else "0.weight"
    with pytest.raises(
        FrozenDriftError, match=rf"changed at epoch 1: .*{name}.*no longer has a tensor"
    ):
        verify(net, expected, "epoch 1")
