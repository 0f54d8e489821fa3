import numpy as np
import pytest

from siamkit.inference.export import timing
from siamkit.inference.export.timing import medians, paces


def test_runners_take_turns_and_the_median_counts(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def runner(name, seconds):
        def run(images):
            calls.append((name, len(images)))
            now[0] += seconds * len(images) + (5.0 if len(calls) == 1 else 0)
            return images

        return run

    found = paces({"slow": runner("slow", 0.2), "fast": runner("fast", 0.1)}, np.zeros((32, 1)))
    assert found["slow"].latency == pytest.approx(0.2)
    assert found["fast"].throughput == pytest.approx(10)
    alone = [name for name, size in calls if size == 1]
    assert alone[:6] == ["slow", "fast"] * 3
    assert now[0] < 60, "the time is bounded"


@pytest.mark.parametrize(
    ("cost", "seconds", "counted"),
    [
        (10.0, 1.0, 3),  # slow calls are repeated three times
        (1.0, 7.0, 8),  # 16 calls take 16 s; after 7 of each, the time of 14 s is not over yet
        (1.0, 6.5, 7),
        (0.1, 100.0, 50),
    ],
)
def test_calls_are_repeated_as_long_as_there_is_time(cost, seconds, counted, monkeypatch):
    now, calls = [0.0], {"a": 0, "b": 0}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call(name):
        calls[name] += 1
        if calls[name] > 1:  # the first call does not count
            now[0] += cost

    found = medians({name: lambda name=name: call(name) for name in calls}, seconds)
    assert calls == {"a": counted + 1, "b": counted + 1}
    assert found == {"a": pytest.approx(cost), "b": pytest.approx(cost)}
