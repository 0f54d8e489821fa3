from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from siamkit.engine.kernels import (
    Choice,
    KernelError,
    available,
    batch_size,
    check,
    choose,
    worth_building,
)
from siamkit.engine.kernels import build as building
from siamkit.engine.kernels.base import FoldedKernel
from siamkit.engine.kernels.build import KernelSource
from siamkit.engine.kernels.worth import Cost, expected
from siamkit.errors import ConfigError

MANY = 10**9
# The package's function of the same name hides the module.
choosing = importlib.import_module("siamkit.engine.kernels.choose")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building.onnxruntime, "find_spec", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the folded kernel slow, wrong or broken."""

    def rig(delay: float = 0.0, factor: float = 1.0, error: Exception | None = None) -> None:
        run = FoldedKernel._run

        def rigged_run(self: FoldedKernel, images: Tensor) -> Tensor:
            if error:
                raise error
            time.sleep(delay)
            return run(self, images) * factor

        monkeypatch.setattr(FoldedKernel, "_run", rigged_run)

    return rig


def _choose(prefix: nn.Module, images: Tensor, **options: Any) -> Choice:
    return choose(prefix, images, options.pop("count", 10**6), **options)


def test_what_is_over_in_a_moment_runs_as_it_is(small: nn.Module, images: Tensor) -> None:
    choice = _choose(small, images, count=2)
    assert choice.kernel.name == "eager"
    assert set(choice.seconds_per_image) == {"eager"} and not choice.rejected


def test_what_is_known_of_the_plain_network_is_not_measured_again(images: Tensor) -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            Counted.calls += 1
            return images.flatten(1)

    example = images[:1].expand(batch_size("cpu"), *images.shape[1:])
    plain = (example.flatten(1), 0.001)
    _choose(Counted(), example, wanted="folded", plain=plain)
    assert Counted.calls == 1, "traced once, never run"
    _choose(Counted(), example, wanted="folded")
    assert Counted.calls == 3


@pytest.mark.usefixtures("nothing_installed")
def test_the_fastest_kernel_wins(
    small: nn.Module, images: Tensor, rigged: Callable[..., None]
) -> None:
    rigged(delay=0.1)
    choice = _choose(small, images)
    assert choice.kernel.name == "eager"
    assert choice.seconds_per_image["folded"] > choice.seconds_per_image["eager"]
    assert set(choice.setup_seconds) == {"eager", "folded"}


@pytest.mark.usefixtures("nothing_installed")
def test_a_faster_kernel_than_the_network_itself_is_chosen(images: Tensor) -> None:
    class Slow(nn.Module):
        """Slow in Python, which a captured graph does not run."""

        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.05)
            return images.flatten(1).relu()

    choice = _choose(Slow(), images)
    assert choice.kernel.name == "folded"
    assert choice.seconds_per_image["eager"] >= 0.05 / batch_size("cpu")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("rig", "reason"),
    [
        ({"factor": 1.001}, "differs from the plain network by 1.0e-03"),
        ({"factor": float("nan")}, "differs from the plain network by inf"),
        ({"error": RuntimeError("no such thing")}, "RuntimeError: no such thing"),
    ],
)
def test_a_kernel_that_fails_or_differs_is_rejected_and_the_next_used(
    small: nn.Module,
    images: Tensor,
    rigged: Callable[..., None],
    rig: dict[str, Any],
    reason: str,
) -> None:
    rigged(**rig)
    choice = _choose(small, images)
    assert choice.kernel.name == "eager"
    assert reason in choice.rejected["folded"]
    assert "folded" not in choice.seconds_per_image


@pytest.mark.usefixtures("nothing_installed")
def test_what_cannot_be_captured_runs_eagerly(images: Tensor) -> None:
    class Picky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) if images.mean() > 0 else -images.flatten(1)

    choice = _choose(Picky(), images, count=MANY)
    assert choice.kernel.name == "eager"
    assert "cannot be captured" in choice.rejected["folded"]


@pytest.mark.skipif(available("cpu")["onnxruntime"] is not None, reason="needs ONNX Runtime")
def test_a_prefix_that_cannot_be_captured_is_not_exported_either(images: Tensor) -> None:
    class Picky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) if images.mean() > 0 else -images.flatten(1)

    choice = _choose(Picky(), images, count=MANY)
    assert choice.kernel.name == "eager"
    assert "cannot be captured" in choice.rejected["onnxruntime"]


@pytest.mark.parametrize("wanted", ["eager", "folded", "onnxruntime"])
def test_a_kernel_that_is_wanted_is_used_even_if_slow_or_dear(
    small: nn.Module, images: Tensor, rigged: Callable[..., None], wanted: str
) -> None:
    if reason := available("cpu")[wanted]:
        pytest.skip(reason)
    rigged(delay=0.05)
    choice = _choose(small, images, wanted=wanted, count=1)
    assert choice.kernel.name == wanted
    assert set(choice.seconds_per_image) == {wanted}
    assert check(choice.kernel, small, images) < 1e-5


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("onnxruntime", "not installed: pip install"),
        ("inductor", "no C\\+\\+ compiler"),
        ("openvino", "unknown kernel"),
    ],
)
def test_a_wanted_kernel_that_is_not_there_is_an_error_with_the_ways_out(
    small: nn.Module, images: Tensor, wanted: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"engine.prefix: .*{reason}") as caught:
        _choose(small, images, wanted=wanted)
    assert caught.value.got == wanted
    assert caught.value.allowed == "auto, eager, folded"


@pytest.mark.usefixtures("nothing_installed")
def test_a_wanted_kernel_that_is_wrong_is_an_error(
    small: nn.Module, images: Tensor, rigged: Callable[..., None]
) -> None:
    rigged(factor=1.001)
    with pytest.raises(KernelError, match=r"engine.prefix: .*differs.*allowed: auto, eager"):
        _choose(small, images, wanted="folded")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_the_batch_size_does_not_depend_on_the_images_given(small: nn.Module, rows: int) -> None:
    choice = _choose(small, torch.rand(rows, 3, 32, 32))
    assert choice.kernel.batch_size == batch_size("cpu")
    assert len(choice.kernel(torch.rand(3, 3, 32, 32))) == 3


def test_without_an_image_there_is_no_choice(small: nn.Module) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        _choose(small, torch.rand(0, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.skipif(available("cpu")["onnxruntime"] is not None, reason="needs ONNX Runtime")
def test_dear_kernels_are_built_only_for_many_images(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(choosing, "_SHORT", 0.0)
    few = _choose(small, images, count=10)
    assert "do not pay off for 10 images" in few.rejected["onnxruntime"]
    many = _choose(small, images, count=MANY)
    assert "onnxruntime" in many.seconds_per_image and "onnxruntime" not in many.rejected


def test_a_network_that_does_not_run_is_an_error(images: Tensor) -> None:
    with pytest.raises(RuntimeError, match="to have 5 channels") as caught:
        _choose(nn.Conv2d(5, 1, 3), images)
    assert not isinstance(caught.value, KernelError), "no kernel is at fault"


times = st.floats(1e-5, 10.0)


@given(st.integers(1, 10**7), times, st.floats(0.1, 100.0), st.floats(0.5, 5.0))
def test_more_images_never_make_a_kernel_less_worth(
    count: int, seconds: float, setup: float, gain: float
) -> None:
    if worth_building(count, seconds, setup, gain):
        assert worth_building(2 * count, seconds, setup, gain)
        assert worth_building(count, 2 * seconds, setup, gain)
        assert worth_building(count, seconds, setup / 2, gain)
        assert worth_building(count, seconds, setup, 2 * gain)


@given(st.integers(1, 10**7), times, st.floats(0.1, 100.0), st.floats(0.1, 1.0))
def test_a_kernel_that_gains_nothing_is_never_worth_it(
    count: int, seconds: float, setup: float, gain: float
) -> None:
    assert not worth_building(count, seconds, setup, gain)


@given(st.integers(1, 10**6), times, st.floats(0.1, 100.0), st.floats(1.01, 5.0))
def test_a_kernel_is_worth_it_where_the_whole_takes_less_time(
    count: int, seconds: float, setup: float, gain: float
) -> None:
    without, with_it = count * seconds, setup + count * seconds / gain
    if abs(without - with_it) > 1e-6 * without:
        assert worth_building(count, seconds, setup, gain) == (with_it < without)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_setup_is_expected_to_grow_with_the_network(device: str) -> None:
    cost = expected("inductor", device)
    assert cost is not None
    assert 0 < cost.setup(10, 10**6) < cost.setup(100, 10**6)
    onnx = expected("onnxruntime", "cpu")
    assert onnx is not None and onnx.setup(10, 10**6) < onnx.setup(10, 10**9)
    assert expected("folded", device) is None


def test_a_setup_is_the_sum_of_its_parts() -> None:
    assert Cost(1.0, 2.0, 3.0, gain=1.0).setup(10, 2 * 10**9) == 1 + 20 + 6


def contest(count: int = 1000, seconds: float = 0.02) -> Any:
    """A contest for a plain network that takes ``seconds`` per image."""
    net, images = nn.Conv2d(3, 4, 3).eval(), torch.zeros(8, 3, 8, 8)
    with torch.no_grad():
        output = net(images)
    return choosing._Contest(KernelSource(net, images, "fp32"), count, (output, seconds))


def test_a_setup_that_does_not_pay_off_is_told_with_its_numbers() -> None:
    told = contest(10).not_worth("onnxruntime")
    assert told == ("not tried: about 1 s of setup do not pay off for 10 images at 20 ms per image")
    assert contest(10**6).not_worth("onnxruntime") is None


def test_the_gain_is_relative_to_the_folded_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(choosing, "worth_building", lambda *given: asked.append(given) or True)
    monkeypatch.setattr(choosing, "expected", lambda *_: Cost(3.0, 0.0, 0.0, gain=1.5))
    made = contest()
    made.not_worth("inductor")
    made._seconds = {"folded": 0.01}
    made.not_worth("inductor")
    made._seconds = {"folded": 0.01, "onnxruntime": 0.005}
    made.not_worth("inductor")
    assert asked == [(1000, 0.02, 3.0, 1.5), (1000, 0.01, 3.0, 1.5), (1000, 0.005, 3.0, 0.75)]


@pytest.mark.parametrize(
    ("took", "runs", "seconds"),
    [
        ([1.05, 1.02, 1.01, 0.5], 3, 1.01),
        ([1.29, 1.25, 0.5], 3, 0.5),
        ([1.31, 0.5], 1, 1.31),
        ([1.05, 0.9, 0.1], 2, 0.9),
        ([0.9, 0.1], 1, 0.9),
    ],
)
def test_a_kernel_is_run_again_while_it_is_close_to_the_best(
    monkeypatch: pytest.MonkeyPatch, took: list[float], runs: int, seconds: float
) -> None:
    made, left = contest(seconds=1 / 8), list(took)
    clock = [0.0]
    monkeypatch.setattr(made, "_now", lambda: clock[0])

    def kernel(images: Tensor) -> Tensor:
        clock[0] += left.pop(0)
        return images

    assert made._time(kernel) == pytest.approx(seconds / 8)
    assert len(took) - len(left) == runs


def test_the_graph_is_captured_once_for_all_kernels(small: nn.Module, images: Tensor) -> None:
    source = KernelSource(small, images, "fp32")
    assert source.graph is source.graph
    assert source.nodes == 4, "two folded convolutions, two activations"
    assert source.nbytes == 4 * (8 * 27 + 8 + 16 * 72 + 16)


def test_no_further_kernel_is_tried_after_half_a_minute(monkeypatch):
    contest = choosing._Contest(
        choosing.KernelSource(nn.Conv2d(3, 4, 3).eval(), torch.zeros(8, 3, 8, 8), "fp32"), 1000
    )
    assert contest.too_late() is None
    monkeypatch.setattr(choosing, "_MOST", 0.0)
    assert "not tried: measuring took" in contest.too_late()
