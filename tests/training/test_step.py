from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from siamkit.batches import Batch
from siamkit.errors import ConfigError, NonFiniteError, PluginError, ResourceError
from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.training.step import LossWork, Stepper, autocast, micro_batches

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images)


class MeanSquare(Loss):
    def forward(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None = None
    ) -> Tensor:
        assert labels is not None
        return (embeddings.sum(1) - labels).square().mean()


def make(clip_norm: float | None = None, precision: str = "fp32") -> Stepper:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD([{"params": list(net.parameters())}], lr=0.1)
    return Stepper(net, MeanSquare(), optimizer, CPU, precision, clip_norm)  # type: ignore[arg-type]


def split(images: Tensor, labels: Tensor, cuts: Sequence[int]) -> list[Batch]:
    index = torch.arange(len(labels))
    parts = (tensor.split(list(cuts)) for tensor in (images, labels, index))
    return [Batch(*part) for part in zip(*parts, strict=True)]


def batches(images: Tensor, labels: Tensor, cuts: Sequence[int]) -> list[LossWork]:
    """Return a loss for each part."""
    return [
        LossWork(iter([batch]), 1, None, len(batch) / len(labels))
        for batch in split(images, labels, cuts)
    ]


def passes(images: Tensor, labels: Tensor, cuts: Sequence[int]) -> list[LossWork]:
    """Return one loss over all parts, each in a pass of its own."""
    return [LossWork(iter(split(images, labels, cuts)), len(cuts), None, 1.0)]


class Keeping(torch.optim.SGD):
    """An optimizer that zeroes gradients in place by default, as torch's did before 2.0."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none)


def test_what_was_frozen_between_two_steps_stays_under_an_optimizer_that_keeps_gradients() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = Keeping(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    stepper = Stepper(net, MeanSquare(), optimizer, CPU, "fp32")  # type: ignore[arg-type]
    step = torch.randn(4, 3), torch.arange(4), [4]
    stepper(batches(*step))
    net.linear.weight.requires_grad_(False)
    weight, bias = (p.detach().clone() for p in (net.linear.weight, net.linear.bias))
    stepper(batches(*step))
    assert torch.equal(net.linear.weight, weight)
    assert not torch.equal(net.linear.bias, bias)


class Given(Loss):
    """A loss made of a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, embeddings: Tensor, labels: Tensor | None, tuples: object = None) -> Tensor:
        return self.function(embeddings)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda e: e.sum(1), r"must return a scalar tensor, got \[4\]"),
        (lambda e: 1.0, "must return a scalar tensor, got 'float'"),
        (lambda e: e.detach().sum(), r"without a gradient.*without detach\(\).*sum\(\) \* 0"),
        (lambda e: torch.tensor(e.sum().item()), "without a gradient, so nothing would be"),
        (lambda e: torch.zeros((), requires_grad=True), "without a gradient, so nothing would be"),
        (lambda e: e.sum().to(torch.cfloat), "must return a real number, got 'torch.complex64'"),
        (lambda e: e.sum().long(), "must return a real number, got 'torch.int64'"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_training_cannot_follow_is_refused(
    function: Callable[[Tensor], object], message: str, precision: str
) -> None:
    stepper = make(precision=precision)
    stepper.loss = Given(function)
    with pytest.raises(PluginError, match=f"loss Given .*{message}"):
        stepper(batches(torch.randn(4, 3), torch.arange(4), [4]))


def test_embeddings_without_a_gradient_are_blamed_on_the_network() -> None:
    stepper = make()
    stepper.forward = lambda images: stepper.net(images).detach()
    with pytest.raises(PluginError, match=r"^the network returned embeddings without a gradient"):
        stepper(batches(torch.randn(4, 3), torch.arange(4), [4]))


@given(classes=st.integers(2, 20), unit=st.integers(2, 5), size=st.none() | st.integers(10, 60))
@example(classes=3, unit=4, size=8)
@example(classes=5, unit=4, size=12)
def test_micro_batches_cover_the_batch_in_order_and_keep_classes_whole(
    classes: int, unit: int, size: int | None
) -> None:
    batch = list(range(classes * unit))
    parts = micro_batches(batch, size, unit)
    assert [i for part in parts for i in part] == batch
    for part in parts:
        assert len(part) % unit == 0
        assert len(part) >= 2 * unit, "a class alone has no negatives"
        assert size is None or len(part) <= size + unit
    lengths = {len(part) // unit for part in parts}
    assert max(lengths) - min(lengths) <= 1


def test_a_partial_last_micro_batch_weighs_what_it_should_and_is_not_dropped() -> None:
    images, labels = torch.randn(10, 3), torch.arange(10)
    whole, parts = make(), make()
    loss = whole(batches(images, labels, [10]))
    in_parts = parts(batches(images, labels, [4, 4, 2]))
    assert in_parts == pytest.approx(loss)
    for a, b in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_updates_nothing(bad: float) -> None:
    stepper = make()
    before = copy.deepcopy(stepper.net.state_dict())
    with pytest.raises(NonFiniteError, match="the loss is not finite"):
        stepper(batches(torch.full((4, 3), bad), torch.arange(4), [4]))
    assert all(torch.equal(v, stepper.net.state_dict()[k]) for k, v in before.items())


def test_a_gradient_that_is_not_finite_updates_nothing() -> None:
    stepper = make()
    stepper.net.linear.weight.register_hook(lambda g: g * float("inf"))
    before = copy.deepcopy(stepper.net.state_dict())
    with pytest.raises(NonFiniteError, match="the gradient is not finite"):
        stepper(batches(torch.randn(4, 3), torch.arange(4), [4]))
    assert all(torch.equal(v, stepper.net.state_dict()[k]) for k, v in before.items())


def test_the_gradient_norm_is_clipped() -> None:
    stepper = make(clip_norm=1e-3)
    before = [p.detach().clone() for p in stepper.net.parameters()]
    stepper(batches(torch.randn(4, 3), 100 * torch.arange(4), [4]))
    moved = torch.cat(
        [(a - b.detach()).flatten() for a, b in zip(before, stepper.net.parameters(), strict=True)]
    )
    assert float(moved.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_norm_too_large_for_float32_is_clipped_if_the_gradients_are_finite(
    precision: str,
) -> None:
    class Steep(Loss):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(2))

        def forward(self, embeddings: Tensor, *_: object) -> Tensor:
            return embeddings.sum() * 0 + self.own.sum() * 3e19  # its square exceeds 3.4e38

    net, loss = Net(), Steep()
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=1.0)
    stepper = Stepper(net, loss, optimizer, CPU, precision, clip_norm=1.0)  # type: ignore[arg-type]
    stepper(batches(torch.randn(4, 3), torch.arange(4), [4]))
    assert not stepper.overflowed
    assert loss.own.norm().item() == pytest.approx(1.0)


class Large(Loss):
    """A loss that has no memory for ``limit`` embeddings while a graph of the network exists."""

    def __init__(self, fits: Callable[[], bool]) -> None:
        super().__init__()
        self.fits = fits

    def forward(self, embeddings: Tensor, *_: object) -> Tensor:
        if not self.fits():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return embeddings.square().sum()


def test_a_loss_that_alone_exceeds_the_memory_is_not_answered_with_smaller_passes() -> None:
    stepper = make()
    stepper.loss = Large(lambda: False)
    with pytest.raises(ResourceError, match=r"loss Large, which compares 4 embeddings.*batch_size"):
        stepper(passes(torch.randn(4, 3), torch.arange(4), [2, 2]))


def test_a_loss_that_only_lacks_memory_next_to_a_pass_is() -> None:
    stepper = make()
    outputs: list[weakref.ref[Tensor]] = []
    forward = stepper.forward

    def watched(images: Tensor) -> Tensor:
        output = forward(images)
        outputs.append(weakref.ref(output))
        return output

    stepper.forward = watched
    stepper.loss = Large(lambda: all(output() is None for output in outputs))
    with pytest.raises(MemoryError):
        stepper(passes(torch.randn(4, 3), torch.arange(4), [4]))


def test_bf16_computes_in_bf16_and_hands_the_loss_float32() -> None:
    stepper = make()
    stepper.precision = "bf16"
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    forward = stepper.forward

    def watch(images: Tensor) -> Tensor:
        out = forward(images)
        seen.append((out.dtype, images.dtype))
        return out

    stepper.forward = watch
    stepper(batches(torch.randn(4, 3), torch.arange(4), [4]))
    assert seen == [(torch.bfloat16, torch.float32)]
    assert stepper.net.linear.weight.grad.dtype == torch.float32


def test_fp16_is_refused_where_gradients_cannot_be_scaled() -> None:
    with pytest.raises(ConfigError, match=r"train\.precision: fp16 needs a CUDA device or the CPU"):
        autocast(torch.device("mps"), "fp16")


def test_a_step_that_overflows_in_fp16_updates_nothing_and_the_next_ones_do() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    stepper = Stepper(net, MeanSquare(), optimizer, CPU, "fp16")  # type: ignore[arg-type]
    before, scales, overflows = copy.deepcopy(net.state_dict()), [], []
    for step in range(20):
        stepper(batches(torch.randn(4, 3), 100 * torch.arange(4), [4]))
        scales.append(stepper.scaler.get_scale())
        overflows.append(stepper.overflowed)
        if step == 0:
            assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert overflows[0] and not overflows[-1]
    assert scales == sorted(scales, reverse=True) and scales[-1] < scales[0]
    assert not all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize(("scale", "ends"), [(2.0, False), (1.0, False), (0.5, True)])
def test_gradients_that_overflow_without_a_scale_end_the_run(scale: float, ends: bool) -> None:
    stepper = make(precision="fp16")
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    stepper.net.linear.weight.register_hook(lambda grad: grad * math.inf)
    expected = pytest.raises(NonFiniteError, match="the gradient is not finite")
    with expected if ends else nullcontext():
        stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))
    assert stepper.overflowed and stepper.scaler.get_scale() == (scale if ends else scale / 2)


def test_a_step_in_fp16_that_failed_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    stepper = Stepper(net, MeanSquare(), optimizer, CPU, "fp16")  # type: ignore[arg-type]

    def no_memory(*_: object) -> Tensor:
        raise MemoryError

    for _ in range(2):
        stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))
    before = stepper.scaler.state_dict()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(nn.utils, "get_total_norm", no_memory)
        stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))
    assert stepper.scaler.state_dict() == before
    stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_error_names_features_of_zeros_and_advises_what_can_help(precision: str) -> None:
    stepper = make()
    stepper.precision = precision
    nn.init.zeros_(stepper.net.linear.bias)  # type: ignore[attr-defined, arg-type]
    images = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 1, 1]])
    stepper.loss = Given(lambda e: torch.linalg.vector_norm(e, dim=1).log().sum())
    with pytest.raises(NonFiniteError, match="the loss is not finite") as caught:
        stepper(batches(images, torch.arange(3), [3]))
    text = str(caught.value)
    assert "2 of the 3 embeddings consist of zeros" in text and "image_size" in text
    assert ("fp32" in text) is (precision != "fp32")


def test_an_error_without_zeros_advises_a_lower_rate_only() -> None:
    stepper = make()
    stepper.loss = Given(lambda e: e.sum() * float("inf"))
    with pytest.raises(NonFiniteError) as caught:
        stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))
    assert str(caught.value).endswith("; lower the learning rate (lr)")
    stepper.first = True  # no step has used a rate
    with pytest.raises(NonFiniteError) as caught:
        stepper(batches(torch.ones(4, 3), torch.arange(4), [4]))
    assert str(caught.value).endswith("; try another loss (loss)")


class Full(torch.optim.SGD):
    """An optimizer that runs out of memory, or fails otherwise."""

    text = "could not create a primitive"

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise RuntimeError(self.text)


def test_memory_that_runs_out_in_the_update_is_told_as_such() -> None:
    stepper = make()
    stepper.optimizer = Full(stepper.net.parameters(), lr=0.1)
    work = batches(torch.ones(2, 3), torch.zeros(2), [2])
    with pytest.raises(ResourceError, match="in the update of the parameters, some of which may"):
        stepper(work)
    stepper.optimizer.text = "no such device"  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="no such device"):
        stepper(batches(torch.ones(2, 3), torch.zeros(2), [2]))
