"""The sections of a config."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from siamkit.config import TrainConfig


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
    ({"micro_batch": "some"}, "an integer, auto or null"),
    ({"images_per_class": 33}, "at most half of train.batch_size"),
    ({"images_per_class": 32}, None),
])  # fmt: skip
def test_the_parts_of_a_batch_fit_together(given: dict[str, Any], wrong: str | None) -> None:
    if wrong is None:
        assert TrainConfig(**given).pass_size <= 64
        return
    with pytest.raises(ValidationError, match=wrong):
        TrainConfig(**given)
