"""Timing: the latency and the throughput of runners, measured side by side in bounded time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from siamkit.inference.export.images import BATCH
from siamkit.inference.export.runners import Array, Runner

_SECONDS = 2.0  # that each runner is measured at each batch size
_LEAST, _MOST = 3, 50  # calls of each runner


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

    The calls of the runners alternate, so that other work on the machine slows all of them down.

    Args:
        runners: The runners by name.
        images: ``[32, C, H, W]``, prepared images.
    """
    alone, batch = _medians(runners, images[:1]), _medians(runners, images[:BATCH])
    return {name: Pace(alone[name], len(images[:BATCH]) / batch[name]) for name in runners}


def _medians(runners: Mapping[str, Runner], images: Array) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run(images)  # the first call of a shape also plans it
    end = time.perf_counter() + _SECONDS * len(runners)
    for number in range(_MOST):
        if number >= _LEAST and time.perf_counter() > end:
            break
        for name, run in runners.items():
            start = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in times.items()}
