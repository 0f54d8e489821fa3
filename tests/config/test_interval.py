from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.config import RunConfig
from siamkit.config.interval import Interval


@given(st.integers(1, 10**6), st.sampled_from([("s", 1), ("m", 60), ("h", 3600)]))
def test_a_time_is_over_after_its_seconds(number: int, unit: tuple[str, int]) -> None:
    interval = Interval.parse(f"{number}{unit[0]}")
    seconds = number * unit[1]
    assert interval.has_passed(seconds, 0)
    assert not interval.has_passed(seconds - 0.5, 10**9)


@given(st.integers(1, 10**6))
def test_steps_are_over_after_their_number(number: int) -> None:
    interval = Interval.parse(f"{number}steps")
    assert interval.has_passed(0.0, number)
    assert not interval.has_passed(1e9, number - 1)


@pytest.mark.parametrize(
    "text", ["", "5", "0m", "-1s", "1.5h", "5 m", "5M", "steps", "1step", "1d", "5m\n", "\u0665m"]
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 5m, 1h or 200steps"):
        RunConfig.model_validate({"train": {"checkpoint_every": text}})


def test_without_one_there_is_none() -> None:
    assert RunConfig().train.checkpoint_interval is None
