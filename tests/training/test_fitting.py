from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import siamkit
from siamkit import api
from siamkit.errors import ResourceError
from siamkit.interfaces import Event
from siamkit.runs import checkpoint
from siamkit.training import fitting
from siamkit.training.fitting import choose, fitting_pass, free_memory, halved_pass


def test_the_number_of_passes_need_not_be_a_power_of_two() -> None:
    assert choose(512, lambda n: n, 375).images == 256  # of the allowed 300
    assert choose(512, lambda n: n, 250).images == 171
    assert choose(100, lambda n: n, 124).images == 50
    assert choose(100, lambda n: 1000 if n > 7 else n, 124).images <= 7, "not linear at all"


@given(
    batch=st.integers(1, 4096), fixed=st.integers(0, 10**9), each=st.integers(1, 10**8),
    free=st.integers(0, 10**12), more=st.integers(0, 10**8),
)  # fmt: skip
def test_the_fewest_passes_that_fit_are_chosen(
    batch: int, fixed: int, each: int, free: int, more: int
) -> None:
    def need(images: int) -> int:
        # From two passes on, gradients exist beside the activations.
        return fixed + each * images + more * (images < batch)

    fit = choose(batch, need, free)
    assert (fit.needed, fit.whole, fit.free) == (need(fit.images), need(batch), free)
    count = -(-batch // fit.images)
    assert fit.images == -(-batch // count), "the passes are even"
    assert fit.needed <= 0.8 * free or fit.images == 1
    if count > 1:
        larger = -(-batch // (count - 1))
        assert need(larger) > 0.8 * free - (fixed + each * batch) * 1e-6 - each


def test_what_is_there_already_needs_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here these are 24 bytes of weights, and 12 bytes of an optimizer's state."""
    net, loss = nn.Linear(2, 1), nn.Linear(2, 1)
    state = {net.weight: {"step": 3, "mean": torch.zeros(3)}}
    setup: Any = SimpleNamespace(
        net=net, loss=loss, optimizer=SimpleNamespace(state=state), device=torch.device("cpu"),
        config=SimpleNamespace(train=SimpleNamespace(batch_size=8)),
    )  # fmt: skip
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 10**6)
    for peak, needed in ((36 + 100, 100), (20, 0)):
        memory = SimpleNamespace(peak=peak)
        monkeypatch.setattr(fitting, "predictor", lambda *_, memory=memory: lambda images: memory)
        fit = fitting_pass(setup)
        assert fit is not None and (fit.images, fit.whole) == (8, needed)
    monkeypatch.setattr(fitting, "predictor", lambda *_: lambda images: None)
    assert fitting_pass(setup) is None, "the memory cannot be predicted"


def test_passes_are_halved_down_to_one_image_unless_that_changes_the_result() -> None:
    setup: Any = None
    assert [halved_pass(setup, None, n, "here") for n in (2, 3, 8)] == [1, 2, 4]
    with pytest.raises(ResourceError, match="out of memory here, with one image per forward pass"):
        halved_pass(setup, None, 1, "here")
    with pytest.raises(ResourceError, match=r"here, with 2 images .* change the result: norms"):
        halved_pass(setup, "norms", 2, "here")


class Keeping(torch.optim.SGD):
    """An optimizer that zeroes gradients in place by default, as torch's did before 2.0."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none)


def test_no_gradient_is_left_after_a_step_that_failed() -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer = Keeping(layer.parameters(), lr=0.1)
    setup: Any = SimpleNamespace(optimizer=optimizer, device=torch.device("cpu"))
    free_memory(setup)
    assert [p.grad for p in layer.parameters()] == [None, None]


@pytest.mark.slow
def test_auto_takes_what_fits_says_so_and_changes_only_the_rounding(
    run_values: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def listen(event: Event) -> None:
        told.append(event.data.get("text", ""))

    def fit(name: str, micro: Any) -> Any:
        values = run_values(
            freeze={"name": "full"}, engine={"cut": "off"}, optimizer={"name": "sgd", "lr": 0.01},
            train={"micro_batch": micro, "epochs": 1},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / name)
        result = api.fit(values, listeners=[listen])
        state = checkpoint.latest_intact(tmp_path / name / "checkpoints")[0].state
        return result["history"][0]["train_loss"], state["largest_pass"]

    plenty = fit("plenty", "auto")
    assert plenty[1] is None and not any("forward pass" in text for text in told)
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 1)  # a machine that is full
    full = fit("full", "auto")
    assert full[1] == 1
    (text,) = [text for text in told if "a forward pass has at most 1 image" in text]
    assert " 1 B are free" in text and text.endswith("MB, so the memory may run out")
    assert full[0] == pytest.approx(plenty[0], rel=1e-4)


def test_inspect_predicts_the_peak_of_each_phase(
    run_values: Callable[..., dict[str, Any]],
) -> None:
    values = run_values(freeze={"name": "stages"}, train={"epochs": 6})
    head, last = (phase["memory"]["peak"] for phase in siamkit.inspect(values)["phases"])
    assert 0 < head < last, "more stages, more memory"


def test_a_second_view_of_each_image_counts(run_values: Callable[..., dict[str, Any]]) -> None:
    class TwoViews(siamkit.Loss):
        second_view = True

        def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
            first, second = embeddings.chunk(2)
            return (1 - (first * second).sum(dim=1)).mean()

    def memory(batch: int, loss: Any) -> dict[str, int]:
        values = run_values(freeze={"name": "full"}, train={"epochs": 1, "batch_size": batch})
        found: dict[str, int] = siamkit.inspect(values, loss=loss).phases[0]["memory"]
        return {name: value for name, value in found.items() if name != "pass_size"}

    assert memory(8, TwoViews()) == memory(16, "supcon")
