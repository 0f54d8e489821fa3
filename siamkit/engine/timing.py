"""Timing: measures the parts of a cut network on a few real images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from siamkit.engine.cutting import Cut
from siamkit.engine.sources import Inputs
from siamkit.engine.trial import sum_of
from siamkit.model.device import laid_out_for
from siamkit.model.undisturbed import undisturbed

T = TypeVar("T")

_IMAGES = 8
_SHORT = 0.25  # seconds


@dataclass(frozen=True)
class LoadedImages:
    """A few images ``[N, C, H, W]``, and the seconds that loading one took."""

    images: Tensor
    seconds: float


def load_first(inputs: Inputs, net: nn.Module) -> LoadedImages:
    """Load the first images for a network, in their first view."""
    started = time.perf_counter()
    rows = [inputs.example(i, 0) for i in range(min(_IMAGES, len(inputs)))]
    seconds = (time.perf_counter() - started) / len(rows)
    return LoadedImages(laid_out_for(net, torch.stack(rows)), seconds)


@dataclass(frozen=True)
class PartTimes:
    """Times of both parts of a cut network.

    Attributes:
        activations: The prefix's output for the images ``[N, ...]``.
        prefix: Seconds per image in the prefix, run without a kernel.
        suffix: Seconds per image in the suffix, backward included.
    """

    activations: Tensor
    prefix: float
    suffix: float


def time_parts(net: nn.Module, cut: Cut, images: Tensor) -> PartTimes:
    """Time both parts of a network; it is unchanged afterwards."""

    def run_prefix() -> Tensor:
        with torch.no_grad():
            activations: Tensor = cut.prefix(images)
        return activations

    def run_suffix() -> None:
        with undisturbed(net):
            sum_of(cut.suffix(activations)).backward()

    activations, prefix = _timed(run_prefix, images.device)
    _, suffix = _timed(run_suffix, images.device)
    return PartTimes(activations, prefix / len(images), suffix / len(images))


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result and the seconds. A short run is repeated, because the first warms up."""
    best = float("inf")
    while True:
        started = _now(device)
        result = work()
        seconds = _now(device) - started
        if best < float("inf") or seconds > _SHORT:
            return result, min(best, seconds)
        best = seconds


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
