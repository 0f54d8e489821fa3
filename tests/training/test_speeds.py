from __future__ import annotations

import pytest

from siamkit.inference.export import timing
from siamkit.training.speeds import Speeds, confirmed, in_ms, paid


@pytest.mark.parametrize(
    ("computed", "seconds", "said", "not_said"),
    [
        (10_000, 5.0, ["Quantizing took 5 s", "saves about 400 s on the 10000 im"], "pays only"),
        (100, 5.0, ["pays only from the next run"], "earlier run"),
        (100, None, ["An earlier run has quantized it"], "pays only"),
        (100, 5.0, ["as for siamkit.verify_pairs(), takes as long as 8: 160 ms"], "ago"),
    ],
)
def test_what_int8_saves_is_said(
    computed: int, seconds: float | None, said: list[str], not_said: str
) -> None:
    text = paid(Speeds(0.06, 0.02), computed, seconds)
    assert all(part in text for part in said) and not_said not in text
    assert "20 ms per image instead of 60 ms" in text


def test_a_single_image_that_is_no_slower_is_not_mentioned() -> None:
    assert "single image" not in paid(Speeds(0.08, 0.01), 100, None)
    assert "single image" in paid(Speeds(0.08, 0.0101), 100, None)


def test_quantizing_pays_at_once_if_it_took_no_longer_than_it_saves() -> None:
    speeds = Speeds(0.75, 0.25)  # a second for two images
    assert "pays only" not in paid(speeds, 10, 5.0)
    assert "pays only" in paid(speeds, 10, 5.1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.2 ms"), (0.00999, "10 ms"), (0.01, "10 ms"), (0.0251, "25 ms"), (1.5, "1500 ms")],
)
def test_times_are_in_milliseconds(seconds: float, text: str) -> None:
    assert in_ms(seconds) == text


@pytest.mark.parametrize(
    ("first", "took", "expected"),
    [
        (Speeds(0.003, 0.007), {"float32": 0.4, "int8": 0.1}, Speeds(0.05, 0.0125)),
        (Speeds(0.003, 0.003), {"float32": 0.1, "int8": 0.2}, Speeds(0.0125, 0.025)),
        (Speeds(0.007, 0.003), {}, Speeds(0.007, 0.003)),  # nothing is measured again
    ],
)
def test_int8_that_seems_slower_is_measured_again_in_turns(monkeypatch, first, took, expected):
    clock, calls = [0.0], []

    def call(name):
        calls.append(name)
        clock[0] += took[name]

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    found = confirmed(first, lambda: call("float32"), lambda: call("int8"))
    assert found.float32 == pytest.approx(expected.float32)
    assert found.int8 == pytest.approx(expected.int8)
    assert calls[:4] == (["float32", "int8"] * 2 if took else [])
