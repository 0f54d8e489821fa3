"""What the parts of a cut network cost, found out on a few real images."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from siamkit.freezing.selftest import Cut
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import rehearsing
from siamkit.training.loading import LoadedSet

_IMAGES = 8


@dataclass(frozen=True)
class Sample:
    """A few training images ``[N, C, H, W]``, and the seconds that loading one took."""

    images: Tensor
    seconds: float


def sample(part: LoadedSet, device: torch.device) -> Sample:
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
        prefix: Seconds an image in the prefix, as the plain network.
        suffix: Seconds an image in what comes after it, backward included.
    """

    activations: Tensor
    prefix: float
    suffix: float


def survey(net: SiameseNet, found: Cut, images: Tensor) -> Survey:
    """Time both parts of a network once; it is unchanged afterwards."""
    with torch.no_grad():
        started = _now(images.device)
        activations = found.prefix(images)
        prefix = _now(images.device) - started
    with rehearsing(net):
        started = _now(images.device)
        found.suffix(activations).sum().backward()
        suffix = _now(images.device) - started
    return Survey(activations, prefix / len(images), suffix / len(images))


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
