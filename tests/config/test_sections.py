"""The sections of a config."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from siamkit.config import RunConfig, TrainConfig
from siamkit.config.sections import DEFAULT_RATE, OptimizerConfig
from siamkit.interfaces import DEFAULT_MONITOR


@pytest.mark.parametrize("given, wrong", [
    ({"micro_batch": 8, "accumulation": "naive"}, None),
    ({"micro_batch": 7, "accumulation": "naive"}, "at least twice train.images_per_class"),
    ({"micro_batch": 7}, None),
    ({"micro_batch": 1}, None),
    ({"micro_batch": 0}, "at least 1"),
    ({"micro_batch": 64}, None),
    ({"micro_batch": 65}, "at most train.batch_size"),
    ({"micro_batch": "auto"}, None),
    ({"micro_batch": "auto", "accumulation": "naive"}, "auto needs exact accumulation"),
    ({"micro_batch": "some"}, "a valid integer"),
    ({"images_per_class": 33}, "at most half of train.batch_size"),
    ({"images_per_class": 32}, None),
])  # fmt: skip
def test_the_parts_of_a_batch_fit_together(given: dict[str, Any], wrong: str | None) -> None:
    if wrong is None:
        assert TrainConfig(**given).pass_size <= 64
        return
    with pytest.raises(ValidationError, match=wrong):
        TrainConfig(**given)


@pytest.mark.parametrize(
    ("given", "lr", "rate"),
    [("auto", "auto", DEFAULT_RATE), (0.5, 0.5, 0.5), ("1e-4", 1e-4, 1e-4), (1000, 1000, 1000)],
)
def test_a_rate_is_a_number_or_auto(given: Any, lr: Any, rate: float) -> None:
    found = OptimizerConfig(lr=given)
    assert (found.lr, found.rate) == (lr, rate)


@pytest.mark.parametrize("given", ["fast", 0, 1000.5, -1, "nan"])
def test_what_is_no_rate_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(lr=given)


def test_the_metric_that_selects_the_best_epoch_has_a_default() -> None:
    assert TrainConfig().monitored == DEFAULT_MONITOR
    assert TrainConfig(monitor="map@r").monitored == "map@r"


def test_a_tracker_is_named_once() -> None:
    one, two = {"name": "a"}, {"name": "b"}
    assert len(RunConfig(track=[one, two]).track) == 2
    with pytest.raises(ValidationError, match="names 'a' twice"):
        RunConfig(track=[one, two, one])
