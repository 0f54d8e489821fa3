"""What the competitors on a device share: its autocast, its clock, and images in its memory."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from peers.task import Clock, Images, Task

CHUNK = 64  # images a forward, where the time does not count


def autocast(task: Task) -> AbstractContextManager[Any]:
    """Return the autocast context of the task's precision."""
    import torch

    on = task.precision == "bf16"
    return torch.autocast(task.device, dtype=torch.bfloat16 if on else None, enabled=on)


def wait(device: str) -> None:
    """Wait until the device has done all its work."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize(device)


class DeviceClock(Clock):
    """A clock that waits for the device before it reads the time."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def start(self) -> None:
        wait(self._device)
        super().start()

    def stop(self) -> None:
        wait(self._device)
        super().stop()


def seconds_of(work: Any, device: str) -> float:
    """Return the seconds of a piece of work on a device."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def uploaded(task: Task, images: Images) -> tuple[Any, Any]:
    """Return all images ``[N, C, H, W]`` and labels ``[N]`` in the memory of the device."""
    import torch
    from torch.utils.data import DataLoader

    parts = [part for part, _ in DataLoader(images, batch_size=CHUNK, num_workers=workers())]
    layout = torch.channels_last
    everything = torch.cat(parts).to(task.device, memory_format=layout)
    return everything, torch.tensor(images.labels, device=task.device)


def workers() -> int:
    """Return as many processes as siamkit would take to decode, on a machine with many images."""
    import os

    return min(max(len(os.sched_getaffinity(0)) - 1, 1), 8)
