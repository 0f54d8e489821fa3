"""Mixed precision on a GPU: the scaler of fp16 in steps, in checkpoints and on overflow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamkit.batches import Batch
from siamkit.errors import NonFiniteError
from siamkit.interfaces import Loss
from siamkit.training.step import LossWork, Stepper


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("policy", ["freeze-all", "full"])
def test_a_run_in_half_precision_learns_about_what_fp32_does(
    train: Any, policy: str, precision: str
) -> None:
    common = {"freeze": {"name": policy}, "optimizer": {"name": "sgd", "lr": 1e-3}}
    exact = train("fp32", train={"epochs": 2}, **common)
    half = train("half", train={"epochs": 2, "precision": precision}, **common)
    assert half.tensors["head.0.weight"].dtype == torch.float32
    assert half.losses == pytest.approx(exact.losses, rel=0.2, abs=0.05)


def test_the_scaler_is_kept_in_checkpoints(train: Any, train_interrupted: Any) -> None:
    common = {"freeze": {"name": "full"}, "train": {"epochs": 2, "precision": "fp16"}}
    whole = train("whole", **common)
    assert whole.state["scaler"]["scale"] > 0
    resumed = train_interrupted("checkpoint", 2, **common)
    assert resumed.state["scaler"] == whole.state["scaler"]
    assert not train("fp32", train={"epochs": 1}).state["scaler"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images)


class Large(Loss):
    """A loss whose gradient overflows in fp16 with a large scale, and not with a small one."""

    def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
        return (embeddings * labels[:, None]).square().mean()


def step_of(device: torch.device, rate: float = 1e-9) -> tuple[Stepper, Any]:
    torch.manual_seed(0)
    net = Net().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, fused=True)
    stepper = Stepper(net, Large(), optimizer, device, "fp16")  # type: ignore[arg-type]

    def step(factor: int) -> float:
        images = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        batch = Batch(images, factor * torch.arange(1, 5), torch.arange(4))
        return stepper([LossWork(iter([batch]), 1, None, 1.0)])

    return stepper, step


def test_a_step_that_overflows_updates_nothing_and_halves_the_scale(device: torch.device) -> None:
    stepper, step = step_of(device)
    before = copy.deepcopy(stepper.net.state_dict())
    scales, overflows = [stepper.scaler.get_scale()], []
    for count in range(20):
        step(100)
        scales.append(stepper.scaler.get_scale())
        overflows.append(stepper.overflowed)
        if count == 0:
            assert all(torch.equal(v, stepper.net.state_dict()[k]) for k, v in before.items())
    assert overflows[0] and not overflows[-1]
    for overflowed, old, new in zip(overflows, scales, scales[1:], strict=False):
        assert new == (old / 2 if overflowed else old)
    assert not all(torch.equal(v, stepper.net.state_dict()[k]) for k, v in before.items())


def test_a_gradient_that_no_scale_helps_ends_the_run(device: torch.device) -> None:
    _, step = step_of(device)
    with pytest.raises(NonFiniteError, match="not finite"):
        for _ in range(60):
            step(10**7)


def test_the_scaler_goes_on_after_a_step_that_failed(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, step = step_of(device)

    def no_memory(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step(1)
    before = stepper.scaler.state_dict()
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(nn.utils, "get_total_norm", no_memory)
        step(1)
    assert stepper.scaler.state_dict() == before
    step(1)
    assert stepper.scaler.get_scale() <= before["scale"]
