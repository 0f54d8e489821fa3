"""Settings that do not fit the length of a run are told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit import api
from siamkit.interfaces import Progress, Scheduler
from siamkit.training.build import build
from siamkit.training.forecast import forecast


def notices(values: dict[str, Any], steps: int | None = 6, **options: Any) -> str:
    setup = build(api.load_config(values), api.registries(), 4)
    return "\n".join(forecast(setup, steps, **options))


@pytest.fixture
def run(values_of: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return lambda **sections: values_of(tmp_path / "run", **sections)


def test_a_run_that_ends_before_it_unfreezes_is_told(run) -> None:
    # The default: the head alone in the first two epochs.
    default = {"freeze": {"name": "stages", "warmup": 2}}
    text = notices(run(train={"epochs": 2}, **default))
    assert "policy 'stages' unfreezes the backbone in epoch 3" in text
    assert "the run has only 2 epochs" in text and "epochs=4" in text
    advised = notices(run(train={"epochs": 2}, **default), by_recipe=True)
    assert "train longer (budget)" in advised and "epochs=" not in advised
    assert notices(run(train={"epochs": 3}, **default)) == ""
    # A policy that keeps the backbone frozen does what it says.
    assert notices(run(train={"epochs": 2}, freeze={"name": "freeze-all"})) == ""
    assert notices(run(train={"epochs": 1}, freeze={"name": "full"})) == ""


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "one-cycle", "plateau"])
def test_a_warm_up_longer_than_the_run_is_told(run, name: str) -> None:
    scheduler = {"name": name, "warmup": 6}
    text = notices(run(train={"epochs": 3}, scheduler=scheduler))
    assert f"the rate of scheduler '{name}' rises until the run ends" in text
    advised = notices(run(train={"epochs": 3}, scheduler=scheduler), by_recipe=True)
    assert "Train longer (epochs)" in text and "Train longer (budget)" in advised
    assert ("50 % of the full rate" in text) is (name != "one-cycle")  # its rise is no line
    assert notices(run(train={"epochs": 3}, scheduler={**scheduler, "warmup": 1})) == ""


def test_the_rate_that_a_warm_up_reaches_is_told(run) -> None:
    for warmup, share in ((4, "75 %"), (12, "25 %"), (300, "1 %")):
        text = notices(run(train={"epochs": 3}, scheduler={"name": "constant", "warmup": warmup}))
        assert f"where it is {share} of the full rate" in text


@pytest.mark.parametrize(("epochs", "looks"), [(3, 18), (100, 200)])
def test_a_schedule_is_asked_about_steps_from_the_first_to_the_last(
    run, epochs: int, looks: int
) -> None:
    asked: list[Progress] = []

    class Asked(Scheduler):
        def lr_scale(self, progress: Progress) -> float:
            asked.append(progress)
            return 1.0

    setup = build(api.load_config(run(train={"epochs": epochs})), api.registries(), 4)
    setup.scheduler = Asked()
    assert forecast(setup, 6) == ()
    steps = [progress.step for progress in asked]
    assert steps == sorted(set(steps)) and len(steps) == looks
    assert (steps[0], steps[-1]) == (0, 6 * epochs - 1)
    for progress in asked:
        assert (progress.epochs, progress.steps) == (epochs, 6 * epochs)
        assert progress.epoch == len(progress.history) == progress.step // 6


@pytest.mark.parametrize("name", siamkit.list_schedulers())
def test_no_schedule_is_told_as_it_is(run, name: str) -> None:
    assert notices(run(train={"epochs": 3}, scheduler={"name": name})) == ""
    assert notices(run(train={"epochs": 3}, scheduler={"name": name}), steps=None) == ""


def test_stages_that_warm_up_for_longer_than_the_run_lasts_are_told(run) -> None:
    train = {"epochs": 3, "unfreeze_warmup": 13}
    text = notices(run(train=train))  # unfrozen in epoch 2, with 12 steps left
    assert "never reach their full rate: they warm up for 13 steps" in text
    assert "only 12 steps remain" in text
    assert notices(run(train={**train, "unfreeze_warmup": 12})) == ""


def test_training_and_inspecting_say_it_before(run) -> None:
    values = run(train={"epochs": 1}, freeze={"name": "stages", "warmup": 2})
    expected = "policy 'stages' unfreezes the backbone in epoch 3, but the run has only 1 epoch"
    assert any(expected in text for text in siamkit.inspect(values).notices)
    seen: list[siamkit.Event] = []
    siamkit.fit(values, listeners=[seen.append])
    assert seen[0].name == "run_start"
    assert any(expected in text for text in seen[0].data["notices"])
