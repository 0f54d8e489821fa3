"""The range test: its rates, its batches, and what it leaves as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import siamkit
from siamkit import api
from siamkit.api.entries import registries
from siamkit.config import TrainConfig
from siamkit.data.images import ImageSet, Tuples, image_set_of
from siamkit.data.load import load_data
from siamkit.data.splits import Splits
from siamkit.engine.execution import Engine
from siamkit.engine.settings import Reports
from siamkit.training.build import Setup, build
from siamkit.training.range_test import (
    REPEATS,
    WATCHED,
    Outcome,
    planned_steps,
    run_range_test,
    tried_rates,
    visited,
)

RunValues = Callable[..., dict[str, Any]]


@given(st.floats(1e-9, 1e-2), st.floats(10, 1e6), st.integers(20, 300))
def test_each_rate_is_the_same_multiple_of_the_one_before(low, ratio, steps):
    rates = tried_rates(low, low * ratio, steps)
    assert len(rates) == steps
    assert rates[0] == pytest.approx(low) and rates[-1] == pytest.approx(low * ratio)
    growth = ratio ** (1 / (steps - 1))
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([growth] * (steps - 1))


LABELLED = image_set_of([f"class{n // 6}" for n in range(48)])
CONFIG = TrainConfig(epochs=3, batch_size=8, images_per_class=2)


def test_the_steps_are_those_of_a_training_from_that_epoch_on():
    from siamkit.training.batching import epoch_steps

    steps = planned_steps(CONFIG, LABELLED, 2, 15)
    expected = [parts for e in range(2, 6) for parts in epoch_steps(CONFIG, LABELLED, e)]
    assert steps == expected[:15]
    assert len(epoch_steps(CONFIG, LABELLED, 2)) < 15  # one epoch has too few


def test_only_visited_images_are_kept_and_labels_stay():
    steps = planned_steps(CONFIG, LABELLED, 0, 3)
    images, moved = visited(LABELLED, steps)
    assert len(images) < len(LABELLED) and images.classes == LABELLED.classes
    for before, after in zip(steps, moved, strict=True):
        for old, new in zip(before, after, strict=True):
            assert [LABELLED.samples[i] for i in old.images] == [
                images.samples[i] for i in new.images
            ]


def test_a_class_of_two_images_is_among_the_images_of_a_head_in_closed_form():
    images = image_set_of([f"class{n}" for n in range(400)] + ["pair", "pair"])
    steps = planned_steps(TrainConfig(batch_size=4, images_per_class=2), images, 0, 3)
    assert not any(i >= 400 for step in steps for part in step for i in part.images)
    kept, moved = visited(images, steps)
    assert [s.key for s in kept.samples[-2:]] == [s.key for s in images.samples[-2:]]
    assert len(kept) == len({i for step in steps for part in step for i in part.images}) + 2
    for before, after in zip(steps, moved, strict=True):
        (old,), (new,) = before, after
        assert [kept.samples[i] for i in new.images] == [images.samples[i] for i in old.images]
    alone = image_set_of([f"class{n}" for n in range(40)])
    assert len(visited(alone, steps[:0])[0]) == 0


def test_known_pairs_stay_pairs():
    pairs = Tuples(((0, 1), (0, 7), (2, 3), (4, 9), (5, 6), (10, 11)), (True, False) * 3)
    images = ImageSet(LABELLED.samples[:12], LABELLED.classes, tuples=pairs)
    steps = planned_steps(TrainConfig(batch_size=4, images_per_class=2), images, 0, 2)
    kept, moved = visited(images, steps)
    assert kept.tuples is not None  # so no head is computed from the identities
    keys = [[kept.samples[i].key for i in row] for row in kept.tuples.rows]
    known = [[images.samples[i].key for i in row] for row in pairs.rows]
    assert keys == [row for row in known if row in keys]
    assert len(keys) >= sum(part.size for step in steps for part in step) // 2
    for before, after in zip(steps, moved, strict=True):
        (old,), (new,) = before, after
        assert new.tuples is old.tuples and new.size == old.size
        assert [kept.samples[i].key for i in new.images] == [
            images.samples[i].key for i in old.images
        ]


# --- on a network --------------------------------------------------------------------------------


def parts_of(values: dict[str, Any]) -> tuple[Setup, Splits]:
    config = api.load_config({k: v for k, v in values.items() if k != "run_dir"})
    splits = load_data(config.data, config.train.seed)
    return build(config, registries(), len(splits.train.classes)), splits


def outcome_of(setup: Setup, splits: Splits, phase: int = 0, **more: Any) -> Outcome:
    rates = more.pop("rates", tried_rates(1e-6, 10.0, 20))
    progress = more.pop("progress", lambda _done, _total: None)
    reports = Reports(lambda _name, _data: None, lambda: None)
    chosen = setup.schedule.phases()[phase]
    return run_range_test(setup, registries(), splits, chosen, rates, reports, progress)


def generators() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def tensors(setup: Setup) -> dict[str, torch.Tensor]:
    state = {**setup.net.state_dict(), **setup.loss.state_dict(prefix="loss.")}
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("cache", ["off", "always"])
def test_weights_buffers_and_generators_stay(run_values: RunValues, phase: int, cache: str) -> None:
    values = run_values(
        engine={"cache": cache},
        head={"name": "bnneck"},
        freeze={"name": "stages", "warmup": 1, "norm": "train"},
        loss={"name": "proxy-anchor"},
    )
    setup, splits = parts_of(values)
    before, drawn = tensors(setup), generators()
    result = outcome_of(setup, splits, phase)
    assert generators() == drawn
    after = tensors(setup)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(result.curves) == REPEATS
    losses = result.curves[0].losses
    assert losses[-1] != losses[0]
    if phase == 0:  # later, one step changes the statistics of the backbone's batch norms
        assert losses[1] == pytest.approx(losses[0], rel=1e-2)


class Half(siamkit.Loss):
    """A loss that is 0.5 whatever the embeddings are."""

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0 * embeddings.sum()


def test_the_loss_is_the_mean_over_the_watched_batches(run_values: RunValues) -> None:
    setup, splits = parts_of(run_values(engine={"cache": "off", "prefix": "folded"}))
    setup.loss = Half()
    for curve in outcome_of(setup, splits).curves:
        assert set(curve.losses) == {0.5}


def test_the_optimizer_goes_on_with_what_it_knows(run_values: RunValues) -> None:
    setup, splits = parts_of(run_values(engine={"cache": "off", "prefix": "folded"}))
    fresh = outcome_of(setup, splits)
    for group in setup.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 100.0)
    with torch.no_grad():
        before = tensors(setup)
        setup.optimizer.step()
        setup.net.load_state_dict({n: t for n, t in before.items() if not n.startswith("loss.")})
    setup.optimizer.zero_grad()
    known = outcome_of(setup, splits)
    assert known.curves[0].losses[0] == fresh.curves[0].losses[0]
    # Such gradients leave a large second moment, so Adam's next steps are tiny.
    assert known.curves[0].losses[1] != fresh.curves[0].losses[1]


def test_the_repeats_start_alike_and_differ(run_values: RunValues) -> None:
    result = outcome_of(*parts_of(run_values()))
    first = {curve.losses[0] for curve in result.curves}
    assert len(first) == 1
    assert len({curve.losses for curve in result.curves}) == REPEATS


@pytest.mark.slow
def test_the_frozen_part_is_cached_and_agrees_with_the_whole_network(
    run_values: RunValues,
) -> None:
    common = {"dtype": "float32"}
    cached = outcome_of(*parts_of(run_values(engine={"cache": "always", **common})), phase=1)
    whole = outcome_of(*parts_of(run_values(engine={"cut": "off", **common})), phase=1)
    assert (cached.decision.mode, whole.decision.mode) == ("cached", "whole")
    for one, other in zip(cached.curves, whole.curves, strict=True):
        size = min(len(one.losses), len(other.losses)) // 2
        assert one.losses[:size] == pytest.approx(other.losses[:size], rel=1e-3)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_a_pass(run_values: RunValues) -> None:
    values = run_values(
        freeze={"name": "full", "lr_mult": 1.0, "norm": "frozen"},
        head={"name": "identity", "normalize": False},
        optimizer={"name": "sgd"},
        loss={"name": "contrastive"},
    )
    seen: list[tuple[int, int]] = []
    rates = tried_rates(1e-3, 1000.0, 30)
    setup, splits = parts_of(values)
    before = tensors(setup)
    result = outcome_of(setup, splits, rates=rates, progress=lambda *at: seen.append(at))
    assert all(len(curve.rates) < 30 for curve in result.curves)
    assert all(np.isfinite(curve.losses).all() for curve in result.curves)
    assert seen[0] == (0, 30 * REPEATS) and seen[-1] == (30 * REPEATS, 30 * REPEATS)
    assert seen == sorted(seen)
    assert all(torch.equal(tensors(setup)[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supcon", "multi-similarity"])
def test_a_memory_of_earlier_batches_does_not_change_the_loss_that_is_watched(
    run_values: RunValues, name: str
) -> None:
    rates = tried_rates(1e-9, 1e-7, 20)  # nothing is learned
    for memory in (None, 16, 64):
        setup, splits = parts_of(run_values(loss={"name": name, "memory": memory}))
        for curve in outcome_of(setup, splits, rates=rates).curves:
            assert curve.losses == pytest.approx([curve.losses[0]] * 21, rel=1e-3)


class Noisy(nn.Module):
    """A loss with a random factor."""

    second_view = False

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *args: Any) -> torch.Tensor:
        return self.loss(*args) * (0.5 + torch.rand(()))


def test_a_loss_that_draws_at_random_is_watched_with_the_same_numbers(
    run_values: RunValues,
) -> None:
    setup, splits = parts_of(run_values())
    setup.loss = Noisy(setup.loss)  # type: ignore[assignment]
    rates = tried_rates(1e-9, 1e-7, 20)  # nothing is learned
    curves = outcome_of(setup, splits, rates=rates).curves
    for curve in curves:
        assert curve.losses == pytest.approx([curve.losses[0]] * 21, rel=1e-3)


def _halve_input(_net: nn.Module, args: tuple[torch.Tensor]) -> None:
    args[0].mul_(0.5)


def test_a_network_that_changes_its_input_does_not_change_the_watched_batches(
    run_values: RunValues,
) -> None:
    setup, splits = parts_of(run_values(engine={"cut": "off"}))
    setup.net.register_forward_pre_hook(_halve_input)
    rates = tried_rates(1e-9, 1e-7, 20)  # nothing is learned
    for curve in outcome_of(setup, splits, rates=rates).curves:
        assert curve.losses == pytest.approx([curve.losses[0]] * 21, rel=1e-3)


@pytest.mark.parametrize("micro_batch, asked", [(None, 0), (4, 0), ("auto", 1)])
def test_only_auto_asks_how_many_images_fit(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch, micro_batch: Any, asked: int
) -> None:
    from siamkit.training import range_test

    calls: list[Setup] = []
    monkeypatch.setattr(range_test, "fitting_pass", calls.append)
    setup, splits = parts_of(run_values(train={"micro_batch": micro_batch}))
    outcome_of(setup, splits, rates=tried_rates(1e-5, 1e-1, 20))
    assert len(calls) == asked


def test_the_cut_network_is_compared_with_the_whole_one_on_the_first_batch(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, list[int]]] = []

    def checked(self: Engine, execution: Any, epoch: int, batch: Any) -> Any:
        compared.append((epoch, list(batch)))
        return execution

    monkeypatch.setattr(Engine, "checked", checked)
    setup, splits = parts_of(run_values())
    outcome_of(setup, splits, rates=tried_rates(1e-5, 1e-1, 20))
    steps = planned_steps(setup.config.train, splits.train, 0, WATCHED + REPEATS * 20)
    _, moved = visited(splits.train, steps)
    assert compared == [(0, list(moved[0][0].sample))]


@pytest.mark.slow
def test_micro_batches_count_as_one_step(run_values: RunValues) -> None:
    values = run_values(train={"micro_batch": 4}, loss={"name": "proxy-anchor"})
    result = outcome_of(*parts_of(values), rates=tried_rates(1e-5, 1e-1, 20))
    assert len(result.curves[0].losses) == 21


@pytest.mark.slow
def test_the_rates_of_the_stages_are_multiples_of_the_tested_rate(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.training import range_test

    seen: list[dict[str, float]] = []
    original = range_test.set_rates

    def watch(optimizer: Any, rates: Any, default: float) -> None:
        original(optimizer, rates, default)
        seen.append({g["stage"]: g["lr"] for g in optimizer.param_groups})

    monkeypatch.setattr(range_test, "set_rates", watch)
    setup, splits = parts_of(
        run_values(loss={"name": "proxy-anchor"}, optimizer={"loss_lr_mult": 10.0})
    )
    rates = tried_rates(1e-5, 1e-3, 20)
    outcome_of(setup, splits, phase=1, rates=rates)
    assert len(seen) == 20 * REPEATS
    for rate, groups in zip(rates, seen, strict=False):
        assert groups["head"] == pytest.approx(rate)
        assert groups["layer4"] == pytest.approx(rate / 10)
        assert groups["loss"] == pytest.approx(rate * 10)


def test_the_watched_batches_are_not_trained_on_first(run_values: RunValues) -> None:
    setup, splits = parts_of(run_values())
    steps = planned_steps(setup.config.train, splits.train, 0, WATCHED + REPEATS * 20)
    assert len(steps) == WATCHED + REPEATS * 20
    assert steps[0] != steps[WATCHED]
