from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import siamkit
from siamkit import api
from siamkit.interfaces import Event
from siamkit.runs import checkpoint
from siamkit.training import fitting
from siamkit.training.fitting import Fit, choose


@given(
    batch=st.integers(1, 4096), fixed=st.integers(0, 10**9), each=st.integers(1, 10**8),
    free=st.integers(0, 10**12),
)  # fmt: skip
def test_the_largest_half_that_fits_is_chosen(batch: int, fixed: int, each: int, free: int) -> None:
    def need(images: int) -> int:
        return fixed + each * images

    fit = choose(batch, need(batch), need(max(batch // 4, 1)), free)
    halves = [batch]
    while halves[-1] > 1:
        halves.append(-(-halves[-1] // 2))
    assert fit.images in halves
    slack = 1 + 1e-6 * need(batch)
    if fit.images > 1:
        assert fit.needed <= 0.8 * free + slack
    if fit.images < batch:
        assert need(halves[halves.index(fit.images) - 1]) >= 0.8 * free - slack
    assert fit.needed == pytest.approx(need(fit.images), rel=1e-6, abs=2) or batch == 1


def test_images_that_wait_for_their_pass_take_memory() -> None:
    assert choose(512, 5120, 1280, 800) == Fit(64, 640, 5120, 800)
    assert choose(512, 5120, 1280, 800, held=1) == Fit(8, 584, 5120, 800)
    assert choose(512, 5120, 1280, 1200, held=1) == Fit(32, 800, 5120, 1200)


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
    assert " 0.0 MB are free" in text and text.endswith("MB, so the memory may run out")
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
        return found

    assert memory(8, TwoViews()) == memory(16, "supcon")
