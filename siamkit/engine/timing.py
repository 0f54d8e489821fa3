"""The survey: what the parts of a cut network cost, measured on a few real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from siamkit.engine.cutting import Cut
from siamkit.engine.trial import sum_of
from siamkit.model.trace import rehearsing

T = TypeVar("T")

_IMAGES = 8
_SHORT = 0.25  # seconds


@dataclass(frozen=True)
class Sample:
    """A few training images ``[N, C, H, W]``, and the seconds that loading one took."""

    images: Tensor
    seconds: float


class ImageSet(Protocol):
    """Images that can be loaded one by one."""

    @property
    def images(self) -> Sized:
        """As many as there are."""

    @property
    def dataset(self) -> Any:
        """Gives an image ``[C, H, W]`` by its number and a view's."""


def sample(part: ImageSet, device: torch.device) -> Sample:
    """Return the first images of a set."""
    started = time.perf_counter()
    rows = [part.dataset[i, 0] for i in range(min(_IMAGES, len(part.images)))]
    seconds = (time.perf_counter() - started) / len(rows)
    images = torch.stack(rows).to(device)
    return Sample(images.contiguous(memory_format=torch.channels_last), seconds)


@dataclass(frozen=True)
class Survey:
    """What was measured at a boundary.

    Attributes:
        activations: What the prefix gives for the sample ``[N, ...]``.
        prefix: Seconds per image in the prefix, as the plain network.
        suffix: Seconds per image in what comes after it, backward included.
    """

    activations: Tensor
    prefix: float
    suffix: float


def survey(net: nn.Module, found: Cut, images: Tensor) -> Survey:
    """Time both parts of a network; it is unchanged afterwards."""

    def ahead() -> Tensor:
        with torch.no_grad():
            activations: Tensor = found.prefix(images)
        return activations

    def after() -> None:
        with rehearsing(net):
            sum_of(found.suffix(activations)).backward()

    activations, prefix = _timed(ahead, images.device)
    _, suffix = _timed(after, images.device)
    return Survey(activations, prefix / len(images), suffix / len(images))


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result and the seconds; a short run is done twice, as the first one warms up."""
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
