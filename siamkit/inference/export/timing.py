"""Timing: the latency and the throughput of runners, measured side by side in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

from siamkit.inference.export.images import BATCH
from siamkit.inference.export.runners import Array, Runner

_SECONDS = 2.0  # that each runner is measured at each batch size
_LEAST, _MOST = 3, 50  # counted calls


@dataclass(frozen=True)
class Pace:
    """The speed of a runner on this machine.

    Attributes:
        latency: The seconds of a batch of one image, the median of several calls.
        throughput: The images per second in batches of 32, the median of several calls.
    """

    latency: float
    throughput: float


def paces(runners: Mapping[str, Runner], images: Array) -> dict[str, Pace]:
    """Measure the speed of each runner.

    Args:
        runners: The runners by name.
        images: ``[32, C, H, W]``, prepared images.
    """
    alone, batch = (
        medians({name: partial(run, part) for name, run in runners.items()}, _SECONDS)
        for part in (images[:1], images[:BATCH])
    )
    return {name: Pace(alone[name], len(images[:BATCH]) / batch[name]) for name in runners}


def medians(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the median time of each call, in seconds.

    The calls alternate, so that other work on the machine slows all of them down. The first call of
    each, which sets up what later calls use, does not count.

    Args:
        calls: The calls by name. Each returns when its work is done.
        seconds: The time to measure each of them. Slow calls are repeated 3 times, fast ones at
            most 50 times.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds * len(calls)
    for number in range(_MOST):
        if number >= _LEAST and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in times.items()}
