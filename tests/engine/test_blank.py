from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from siamkit.engine.blank import BlankTensor, SuffixError, blank, require_no_blank


@pytest.fixture(params=[torch.float32, torch.int64, torch.bool], ids=str)
def unknown(request: pytest.FixtureRequest) -> Tensor:
    return blank(torch.zeros(2, 3, dtype=request.param))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: 1 + x,
        lambda x: torch.ones(2, 3) * x,
        lambda x: x[0],
        lambda x: torch.cat([torch.ones(2, 3), x]),
        lambda x: torch.where(x > 0, 1.0, 2.0),
        lambda x: x.float().nan_to_num(0.0).reshape(-1).sum(),
        lambda x: nn.Linear(3, 4)(x.float()),
        lambda x: functional.relu(x.float(), inplace=True),
        lambda x: x.expand(5, 2, 3).clone().logical_not_(),
    ],
)
def test_results_of_a_blank_are_blank(unknown: Tensor, compute) -> None:
    result = compute(unknown)
    assert isinstance(result, BlankTensor)
    with pytest.raises(SuffixError, match="returns it"):
        require_no_blank({"features": [torch.ones(1), result]})


def test_looking_at_its_shape_and_type_is_no_use(unknown: Tensor) -> None:
    assert unknown.shape == (2, 3) and len(unknown) == 2 and unknown.ndim == unknown.dim() == 2
    assert unknown.size(1) == 3 and unknown.numel() == 6 and unknown.is_contiguous()
    assert unknown.device.type == "cpu" and not unknown.requires_grad
    known = torch.zeros_like(torch.ones(1)).expand(unknown.shape)
    require_no_blank(known)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: int(x[0, 0]),
        lambda x: float(x[0, 0]),
        lambda x: x[0, 0].item(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: torch.equal(x, torch.zeros(2, 3)),
        lambda x: torch.allclose(x.float(), torch.zeros(2, 3)),
        lambda x: [1, 2][x.long()[0, 0]],
    ],
)
def test_reading_its_values_is_a_use(unknown: Tensor, read) -> None:
    with pytest.raises(SuffixError, match="the trial of the cut did not need it"):
        read(unknown)


@pytest.mark.parametrize(
    "write",
    [
        lambda known, x: known.add_(x),
        lambda known, x: known.__iadd__(x),
        lambda known, x: known.copy_(x),
        lambda known, x: known.__setitem__(0, x[0]),
        lambda known, x: torch.add(x, 1, out=known),
        lambda known, x: functional.batch_norm(x.float(), known[0], known[1], training=True),
        lambda known, x: functional.batch_norm(
            x.float(), running_mean=known[0], running_var=known[1], training=True
        ),
    ],
)
def test_writing_it_into_a_known_tensor_is_a_use_and_writes_nothing(write) -> None:
    known = torch.ones(2, 3)
    with pytest.raises(SuffixError, match="another tensor"):
        write(known, blank(torch.full((2, 3), float("nan"))))
    assert torch.equal(known, torch.ones(2, 3))
