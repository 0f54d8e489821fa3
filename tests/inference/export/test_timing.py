import numpy as np
import pytest

from siamkit.inference.export import timing
from siamkit.inference.export.timing import paces


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
