"""Timing: measures the parts of a cut network on a few real images.

Times are medians, because other work on the machine makes single runs many times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from siamkit.engine.cutting import Cut
from siamkit.engine.sources import Inputs
from siamkit.engine.trial import sum_of
from siamkit.model.device import laid_out_for
from siamkit.model.undisturbed import undisturbed

UNKNOWN = 0.5
"""The relative uncertainty of a time that was measured once."""

_IMAGES = 8
_RUNS, _BUDGET = 5, 0.75  # runs after the first; seconds after which no further run begins


@dataclass(frozen=True)
class LoadedImages:
    """A few images ``[N, C, H, W]``, the median seconds to load one, and the seconds' spread."""

    images: Tensor
    seconds: float
    spread: float = 0.0


def load_first(inputs: Inputs, net: nn.Module) -> LoadedImages:
    """Load the first images for a network, in their first view."""
    rows, seconds = [], []
    for index in range(min(_IMAGES, len(inputs))):
        started = time.perf_counter()
        rows.append(inputs.example(index, 0))
        seconds.append(time.perf_counter() - started)
    images = laid_out_for(net, torch.stack(rows))
    return LoadedImages(images, median(seconds), spread(seconds))


@dataclass(frozen=True)
class FirstRun:
    """The output of a prefix ``[N, ...]`` for a few images, and the seconds that it took."""

    activations: Tensor
    seconds: float


@dataclass(frozen=True)
class PartTimes:
    """Times of both parts of a cut network.

    Attributes:
        activations: The prefix's output ``[N, ...]`` for the images.
        prefix: Seconds per image in the prefix, run by the plain network.
        suffix: Seconds per image in the suffix, backward included.
        spread: The spread of the prefix's or the suffix's times, whichever is larger.
    """

    activations: Tensor
    prefix: float
    suffix: float
    spread: float = 0.0


def time_parts(
    net: nn.Module, cut: Cut, images: Tensor, first: FirstRun, *, precisely: bool
) -> PartTimes:
    """Time both parts of a cut network. The network is unchanged afterwards.

    Args:
        net: The network.
        cut: The cut network.
        images: A few images ``[N, C, H, W]``.
        first: The first run of the prefix on them.
        precisely: Whether to run the prefix again, because the first run of a network is slower.
    """

    def run_suffix() -> None:
        with undisturbed(net):
            sum_of(cut.suffix(first.activations)).backward()

    prefix = [first.seconds]
    if precisely:
        prefix = _timed(lambda: _run(cut, images), images.device, first.seconds)
    suffix = _timed(run_suffix, images.device)
    count = len(images)
    apart = max(spread(prefix), spread(suffix))
    return PartTimes(first.activations, median(prefix) / count, median(suffix) / count, apart)


def _run(cut: Cut, images: Tensor) -> Tensor:
    with torch.no_grad():
        activations: Tensor = cut.prefix(images)
    return activations


def _timed(
    work: Callable[[], object], device: torch.device, first: float | None = None
) -> list[float]:
    """Return the seconds of some runs, without the first, which warms up, if there are several.

    Args:
        work: The work to run.
        device: The device that it runs on.
        first: The seconds of the first run, if it is over.
    """
    seconds = [] if first is None else [first]
    while not seconds or (len(seconds) <= _RUNS and sum(seconds) <= _BUDGET):
        started = _now(device)
        work()
        seconds.append(_now(device) - started)
    return seconds[1:] or seconds


def first_run(cut: Cut, images: Tensor) -> FirstRun:
    """Run the prefix once on a few images."""
    started = _now(images.device)
    activations = _run(cut, images)
    return FirstRun(activations, _now(images.device) - started)


def spread(seconds: Sequence[float]) -> float:
    """Return how far measured times lie from their median, as a share of the median.

    This is the median of all distances, so that a single outlier does not count. One measurement
    alone shows no spread; :data:`UNKNOWN` is returned for it.
    """
    if len(seconds) < 2:
        return UNKNOWN
    middle = median(seconds)
    return median(abs(one - middle) for one in seconds) / max(middle, 1e-12)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
