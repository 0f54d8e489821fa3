"""The predicted memory of the steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

import siamkit
from siamkit import api
from siamkit.config import resolve
from siamkit.config.layers import Layer
from siamkit.engine.boundary import find_boundaries
from siamkit.engine.cutting import first_exact_cut
from siamkit.freezing.memory import Memory, probe_images
from siamkit.freezing.peak import Forward
from siamkit.training import fitting
from siamkit.training.build import Setup, build
from siamkit.training.step_memory import forward_of, predictor

RunValues = Callable[..., dict[str, Any]]


def setup_of(classes: int = 10, phase: int = 0, /, **sections: Any) -> Setup:
    train = {"epochs": 2, "batch_size": 64, "device": "cpu", **sections.pop("train", {})}
    values = {
        "backbone": {"name": "timm:test_resnet", "pretrained": False},
        "data": {"path": "sample", "image_size": 32}, "train": train, **sections,
    }  # fmt: skip
    registries = api.registries()
    setup = build(resolve(registries, Layer(values, str)), registries, classes)
    setup.controller.apply(setup.schedule.phases()[phase].plan)
    return setup


def memory_of(setup: Setup, size: int | None = None) -> Memory:
    found = predictor(setup)(size or setup.config.train.pass_size)
    assert found is not None
    return found


def test_the_inputs_of_exact_passes_wait_in_memory() -> None:
    full = {"name": "full"}
    few, many = (
        memory_of(setup_of(freeze=full, train={"batch_size": n, "micro_batch": 8}))
        for n in (64, 512)
    )
    waiting = (512 - 64) * 4 * 3 * 32 * 32
    assert many.peak - few.peak > waiting
    naive = memory_of(
        setup_of(freeze=full, train={"batch_size": 512, "micro_batch": 8, "accumulation": "naive"})
    )
    assert naive.peak < few.peak


def test_the_parameters_of_a_loss_count_with_their_gradient_and_state() -> None:
    sections: dict[str, Any] = {"freeze": {"name": "freeze-all"}, "loss": {"name": "arcface"}}
    few, many = (memory_of(setup_of(classes, **sections)) for classes in (100, 10_100))
    own = 4 * 10_000 * setup_of(**sections).net.embedding_dim
    assert many.weights - few.weights == own
    assert many.optimizer - few.optimizer == 2 * own
    assert many.gradients + many.activations >= 2 * own, "the gradient, and a part of the update"


@pytest.mark.parametrize("name", ["arcface", "proxy-anchor"])
def test_a_loss_that_knows_its_classes_is_tried_on_these_alone(name: str) -> None:
    """A batch of 64 images has 16 classes here, and the loss knows four."""
    memory_of(setup_of(4, freeze={"name": "freeze-all"}, loss={"name": name}))


def test_the_intermediates_of_a_loss_count() -> None:
    hard, every = (
        memory_of(
            setup_of(
                freeze={"name": "freeze-all"}, loss={"name": "triplet", "mining": mining},
                train={"batch_size": 256, "images_per_class": 16},
            )
        )
        for mining in ("hard", "all")
    )  # fmt: skip
    triplets = 256 * 15 * 240
    assert every.activations > 3 * 8 * triplets > hard.activations / 2, "three indices for each"


def test_a_loss_that_cannot_be_tried_leaves_the_memory_unknown(run_values: RunValues) -> None:
    class NeedsPairs(siamkit.Loss):
        def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
            return embeddings[tuples.first].sum()

    report = siamkit.inspect(run_values(), loss=NeedsPairs())
    assert [phase["memory"] for phase in report.phases] == [None, None]


def test_what_follows_cached_features_needs_less() -> None:
    setup = setup_of(freeze={"name": "freeze-all"})
    plan = setup.controller.plan
    assert plan is not None
    images = probe_images(3, (32, 32), setup.device)
    boundaries = find_boundaries(setup.net, setup.schedule.stages, plan)
    cut, _ = first_exact_cut(setup.net, boundaries, images[:3])
    assert cut is not None
    rows = cut.prefix(images[:1])
    suffix = predictor(setup, Forward(cut.suffix, rows))(64)
    assert suffix is not None
    whole = memory_of(setup)
    assert suffix.activations < whole.activations / 5
    assert suffix.weights == whole.weights
    # The memory is asked for by the number of images, however many were timed.
    parts = SimpleNamespace(times=SimpleNamespace(activations=cut.prefix(images[:3])), cut=cut)
    cached: Any = SimpleNamespace(
        parts=parts, decision=SimpleNamespace(mode="cached"), forward=cut.suffix
    )
    assert forward_of(setup, cached).example.shape == rows.shape


@pytest.mark.slow
def test_inspect_predicts_the_passes_that_run(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(micro: Any) -> dict[str, Any]:
        values = run_values(
            freeze={"name": "full"}, train={"epochs": 1, "batch_size": 32, "micro_batch": micro}
        )
        found: dict[str, Any] = siamkit.inspect(values)["phases"][0]["memory"]
        return found

    whole, four = memory(None), memory(4)
    assert (whole["pass_size"], four["pass_size"]) == (32, 4)
    assert four["activations"] < whole["activations"] / 2
    assert memory("auto") == whole
    monkeypatch.setattr(fitting, "free_bytes", lambda device: int(1.3 * four["peak"]))
    chosen = memory("auto")
    assert 4 <= chosen["pass_size"] < 32
    assert chosen["activations"] < whole["activations"]


def test_inspect_tells_the_peak_from_cached_features(run_values: RunValues) -> None:
    first, second = (p["memory"] for p in siamkit.inspect(run_values())["phases"])
    for memory in (first, second):
        assert memory["peak_from_cache"] < memory["peak"]
    whole = siamkit.inspect(run_values(freeze={"name": "full"}))["phases"][0]["memory"]
    assert whole["peak_from_cache"] is None


def test_auto_counts_the_part_that_runs(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head on cached features fits where the whole network does not."""
    needs: list[int] = []
    choose = fitting.choose

    def watched(batch: int, need: Callable[[int], int], free: int) -> fitting.Fit:
        needs.append(need(batch))
        return choose(batch, need, free)

    monkeypatch.setattr(fitting, "choose", watched)
    for number, engine in enumerate(({"cache": "always"}, {"cut": "off"})):
        values = run_values(
            freeze={"name": "freeze-all"}, engine=engine,
            train={"epochs": 1, "micro_batch": "auto"},
        )  # fmt: skip
        siamkit.fit({**values, "run_dir": str(tmp_path / f"run-{number}")})
    cached, whole = needs
    assert cached < whole
