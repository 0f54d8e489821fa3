"""The idle share of a device while siamkit works on it, by torch.profiler.

``python -m peers.gpu_idle TASK FOLDER RUN CACHE BACKBONE SIZE`` trains with the policy ``stages``,
and profiles the filling of the cache, an epoch of the head alone, and an epoch of the last stages.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from peers.on_device import wait
from peers.task import Task, read, report

FILL, HEAD, STAGES = "filling the cache", "head only, cached", "last stages, cached"
WARM = 2  # epochs of each phase: the second one is profiled


def main() -> None:
    task = read()
    folder, run_dir, cache, backbone, size = sys.argv[2:]
    import siamkit

    watch = Watch(task)
    siamkit.fit(
        {
            "data": {"path": folder, "image_size": int(size), "augment": "none", "views": 1},
            "backbone": {"name": backbone, "weights": task.weights},
            "head": {"name": "mlp", "hidden": task.hidden, "dim": task.dim},
            "loss": {"name": "triplet", "margin": task.margin},
            "optimizer": {"name": "adam", "lr": task.rate, "weight_decay": 0},
            "freeze": {"name": "stages", "n": 2, "warmup": WARM},
            "engine": {"cache": "always", "cache_dir": cache},
            "train": {
                "epochs": 2 * WARM,
                "batch_size": task.batch,
                "images_per_class": task.per_class,
                "device": task.device,
                "precision": task.precision,
            },
            "run_dir": run_dir,
        },
        listeners=[watch],
    )
    report([], 0, idle=watch.idle)


class Watch:
    """A listener that profiles parts of a run.

    Attributes:
        idle: The share of time in which the device did nothing, by the name of the part.
    """

    def __init__(self, task: Task) -> None:
        self.idle: dict[str, float] = {}
        self._device = task.device
        self._profile: Any = None
        self._started = 0.0

    def __call__(self, event: Any) -> None:
        data = event.data
        if event.name == "engine" and not self.idle:
            self._begin()
        elif event.name == "fill" and data["done"] == data["total"]:
            self._end(FILL)
        elif event.name == "step":
            self._step(data)

    def _step(self, data: Mapping[str, Any]) -> None:
        """Profile the second epoch of each phase, from the end of its first step on."""
        part = HEAD if data["epoch"] <= WARM else STAGES
        if data["epoch"] % WARM == 0 and data["epoch_step"] == 1:
            self._begin()
        if data["epoch"] % WARM == 0 and data["epoch_step"] == data["epoch_steps"]:
            self._end(part)

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        if self._profile is not None:
            return
        wait(self._device)
        kinds = [ProfilerActivity.CPU if self._device == "cpu" else ProfilerActivity.CUDA]
        self._profile = profile(activities=kinds)
        self._profile.start()
        self._started = time.perf_counter()

    def _end(self, part: str) -> None:
        if self._profile is None:
            return
        wait(self._device)
        seconds = time.perf_counter() - self._started
        self._profile.stop()
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if event.device_type.name.lower() == self._device
            and not getattr(event, "is_user_annotation", False)
        ]
        self._profile = None
        if spans:  # without the right to profile, there are none
            self.idle[part] = 1 - busy(spans) / 1e6 / seconds


def busy(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


if __name__ == "__main__":
    main()
