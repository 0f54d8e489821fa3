"""The judge of an int8 part: compares its output with that of float32 on validation images.

The images are a sample that is spread over the classes. They are decoded anew for each network, in
batches, so the memory does not grow with their number.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.data.images import ImageSet
from siamkit.data.loader import ViewDataset
from siamkit.errors import DataError
from siamkit.inference.export.images import part_of
from siamkit.inference.quantizing.search import TOLERANCE
from siamkit.model.quantized import ROWS

Features = NDArray[np.float32]
"""One vector per image, ``[N, C]``."""

Part = Callable[[Tensor], Tensor]
"""Computes the output of a part of the network for images ``[N, C, H, W]``."""

DIFFERENT = 0.02
"""The mean distance, 1 - cosine, of centred features that counts as much as :data:`TOLERANCE`."""

LEAST, MOST = 32, 256
"""The bounds of the number of images."""

_SHARE = 32  # of the images that the run computes: judging must cost little of what int8 saves


def judged_images(computed: int) -> int:
    """Return the number of images to judge by: a power of 2, so that similar runs share a graph.

    Args:
        computed: The number of images that the run computes by the part.
    """
    return min(MOST, max(LEAST, 1 << (computed // _SHARE).bit_length() >> 1))


def sample_of(images: ImageSet, most: int, seed: int) -> ImageSet:
    """Return a part of a set that can be evaluated like the set, spread over its classes.

    Classes with several images come first, because an image without another one of its class has
    nothing to find. A class of the part has at least two images if it has them in the set: a query
    and an image of the gallery, if the data names these.

    Args:
        images: The set.
        most: The most images, at least 4.
        seed: The seed of the choice.
    """
    if len(images) <= most or images.tuples is not None:
        return part_of(images, most, seed)
    rng = np.random.default_rng(seed)
    members: dict[int, list[int]] = {}
    for index in rng.permutation(len(images)).tolist():
        members.setdefault(images.samples[index].label, []).append(index)
    order = sorted(members, key=lambda label: len(members[label]) < 2)[: most // 2]
    sizes = [len(members[label]) for label in order]
    # Small classes leave their places to the others.
    counts = range(max(sizes) + 1)
    each = bisect_right(counts, most, key=lambda n: sum(min(n, size) for size in sizes)) - 1
    return images.subset(index for label in order for index in _both(members[label], images)[:each])


def _both(members: list[int], images: ImageSet) -> list[int]:
    """Return images with a query and then another image of the gallery first."""
    if images.query is None or images.gallery is None:
        return members
    query = [index for index in members if images.query[index]][:1]
    gallery = [index for index in members if images.gallery[index] and index not in query][:1]
    return [*query, *gallery, *(i for i in members if i not in (*query, *gallery))]


class Judged(NamedTuple):
    """The output of a network for the images of a judge.

    Attributes:
        features: ``[N, C]``, the pooled output.
        seconds: The least seconds per image, in batches of :data:`.quantized.ROWS`.
    """

    features: Features
    seconds: float


@dataclass(frozen=True)
class Judge:
    """Measures what a part is worth: its pooled output on validation images.

    Attributes:
        dataset: The images.
        monitor: The name of the monitored metric.
        score: Returns the metrics of features ``[N, C]``.
    """

    dataset: ViewDataset
    monitor: str
    score: Callable[[Features], Mapping[str, float]]

    def __len__(self) -> int:
        return len(self.dataset.images)

    def batches(self) -> Iterator[Tensor]:
        """Yield the images ``[N, C, H, W]``, in batches that the part computes at once."""
        for start in range(0, len(self), ROWS):
            places = range(start, min(start + ROWS, len(self)))
            yield torch.stack([self.dataset[place, 0] for place in places])

    def output(self, part: Part) -> Judged:
        """Return the output of a part, and its speed."""
        features, seconds = [], []
        for images in self.batches():
            started = time.perf_counter()
            with torch.no_grad():
                activations = part(images)
            seconds.append((time.perf_counter() - started) / ROWS)  # a batch is padded
            features.append(pooled(activations))
        return Judged(np.concatenate(features), min(seconds))

    def metric(self, features: Features) -> float | None:
        """Return the monitored metric; None if the images do not allow it."""
        try:
            return self.score(features)[self.monitor]
        except DataError:  # no class has two images
            return None

    def loss(self, before: Features, after: Features) -> float:
        """Return the loss of quality: the fall of the metric, or the distance of the features."""
        if not np.isfinite(after).all():
            return 1.0
        apart = distance(before, after) / DIFFERENT * TOLERANCE
        one, other = self.metric(before), self.metric(after)
        return apart if one is None or other is None else max(fall(one, other, len(self)), apart)


def fall(before: float, after: float, count: int) -> float:
    """Return by how much a metric falls beyond chance.

    Among few images, a metric changes by chance as soon as a few similarities change. Half the
    standard error of a share does not count: the networks are measured on the same images.

    Args:
        before: The metric in float32.
        after: The metric in int8.
        count: The number of images.
    """
    return max(0.0, before - after - 0.25 / math.sqrt(count))


def pooled(activations: Tensor) -> Features:
    """Return one vector ``[N, C]`` per image."""
    flat = activations.flatten(2).mean(2) if activations.ndim > 2 else activations
    vectors: Features = flat.float().numpy()
    return vectors


def distance(one: Features, other: Features) -> float:
    """Return the mean of 1 - cosine over rows, after the mean row of ``one`` is subtracted."""
    centre = one.mean(0, dtype=np.float64)
    a, b = one - centre, other - centre
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(1) / np.maximum(lengths, 1e-24)).mean())
