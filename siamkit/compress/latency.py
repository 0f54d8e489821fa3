"""The measured speed of two networks, on the device of the run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor, nn

from siamkit.model.trace import evaluating

BATCH = 32
_LEAST = 5  # measurements of each network for each batch size


def speeds(
    networks: Mapping[str, nn.Module], image: Tensor, seconds: float = 3.0
) -> dict[str, dict[str, float]]:
    """Return the speed of each network, by its name.

    The networks take turns, so that a load of the machine hits all of them.

    Args:
        networks: The networks, on the device of ``image``.
        image: One image ``[1, C, H, W]``.
        seconds: The time to measure each batch size.

    Returns:
        ``latency_ms``: the median time of one image, in milliseconds; ``images_per_second``: in
        batches of 32, by the median time.
    """
    result: dict[str, dict[str, float]] = {name: {} for name in networks}
    for size in (1, BATCH):
        images = image.expand(size, *image.shape[1:]).contiguous()
        times: dict[str, list[float]] = {name: [] for name in networks}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or min(map(len, times.values())) < _LEAST:
            for name, network in networks.items():
                times[name].append(_seconds(network, images))
        for name, values in times.items():
            typical = median(values[1:])  # the first call sets up kernels
            if size == 1:
                result[name]["latency_ms"] = typical * 1e3
            else:
                result[name]["images_per_second"] = size / typical
    return result


def _seconds(network: nn.Module, images: Tensor) -> float:
    with evaluating(network), torch.no_grad():
        _wait(images.device)
        started = time.perf_counter()
        network(images)
        _wait(images.device)
        return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
