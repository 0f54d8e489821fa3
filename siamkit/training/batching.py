"""Batching: which images, known pairs or triplets each optimizer step of an epoch trains on.

Batches are pure functions of (images, sizes, seed, epoch), so a resumed run needs only its epoch
and step to continue with the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from siamkit.batches import Batch
from siamkit.config import TrainConfig
from siamkit.data.images import ImageSet, Tuples
from siamkit.data.sampler import pk_batches, pk_shape
from siamkit.errors import DataError
from siamkit.interfaces import Pairs, Triplets
from siamkit.training.step import BatchTuples, LossWork, micro_batches


@dataclass(frozen=True)
class LossBatch:
    """The images that one loss compares. An optimizer step has one loss, or one per micro-batch.

    Attributes:
        images: Indices into the image set.
        tuples: Known pairs or triplets, as positions in ``images``; None if the loss mines pairs or
            triplets by label.
        size: The weight in the mean over the step: the number of tuples, or the number of images if
            there are no known tuples.
        passes: The images of each forward pass: ``images``, cut into parts.
    """

    images: list[int]
    tuples: BatchTuples | None
    size: int
    passes: tuple[list[int], ...]

    @property
    def sample(self) -> list[int]:
        """The first images, as many as in a forward pass but at least two, for exactness checks."""
        return self.images[: max(len(self.passes[0]), 2)]


def batch_notices(config: TrainConfig, images: ImageSet) -> tuple[str, ...]:
    """Return notices for the user about the batches.

    Raises:
        DataError: The data or the batch size allows no batch.
    """
    if images.tuples is None:
        _, _, notices = pk_shape(images.labels, config.batch_size, config.images_per_class)
        return notices
    width = images.tuples.width
    if (_naive_size(config) or config.batch_size) < width:
        raise DataError(
            f"a batch holds no {'pair' if width == 2 else 'triplet'}",
            where="train.batch_size",
            got=config.batch_size,
            allowed=f"{width} or more",
        )
    return ()


def epoch_steps(
    config: TrainConfig, images: ImageSet, epoch: int, largest: int | None = None
) -> list[list[LossBatch]]:
    """Return the batches of an epoch: a list of optimizer steps, each with its losses' images.

    With labels, each step is a P x K batch. Known pairs or triplets each come once per pass over
    the data, in random order; a step has at most ``batch_size`` images in its pairs (2 each) or
    triplets (3). An epoch is a pass over the data, or ``epoch_steps`` of its steps.

    Args:
        config: The training's settings.
        images: The training images.
        epoch: The number of the epoch, from 0.
        largest: The most images in a forward pass; None if only the settings bound it.
    """
    own = config.micro_batch if config.accumulation == "exact" else None
    cut = partial(_cut, limit=min((n for n in (own, largest) if isinstance(n, int)), default=None))
    return [[cut(part) for part in step] for step in _steps(config, images, epoch)]


def _steps(config: TrainConfig, images: ImageSet, epoch: int) -> list[list[LossBatch]]:
    """Return the steps of an epoch: a pass over the data, or the next part of the passes."""
    most, whole = config.epoch_steps, partial(_pass, config, images)
    if most is None:
        return whole(epoch)
    length = len(whole(0))  # all passes have as many steps
    if most >= length:
        return whole(epoch)
    number, start = divmod(epoch * most, length)
    steps = whole(number)[start:]
    while len(steps) < most:
        number += 1
        steps += whole(number)
    return steps[:most]


def _pass(config: TrainConfig, images: ImageSet, number: int) -> list[list[LossBatch]]:
    """Return the steps of a pass over the data."""
    if images.tuples is not None:
        return _tuple_steps(config, images.tuples, number)
    return _label_steps(config, images.labels, number)


def largest_pass(steps: Iterable[Iterable[LossBatch]]) -> int:
    """Return the number of images in the largest forward pass."""
    return max(len(images) for step in steps for part in step for images in part.passes)


def loss_works(parts: Sequence[LossBatch], batches: Iterator[Batch]) -> Iterator[LossWork]:
    """Yield each loss of a step with its batches, as the optimizer step takes them.

    Args:
        parts: The images and tuples of each loss of the step.
        batches: Yields the batch of each forward pass of the step.
    """
    size = sum(part.size for part in parts)
    for part in parts:
        yield LossWork(batches, len(part.passes), part.tuples, part.size / size)


def _cut(part: LossBatch, limit: int | None) -> LossBatch:
    passes = (part.images,) if limit is None else tuple(_evenly(part.images, limit))
    return replace(part, passes=passes)


def _naive_size(config: TrainConfig) -> int | None:
    """Return the size of the micro-batches that have losses of their own; None without them."""
    size = config.micro_batch if config.accumulation == "naive" else None
    return size if isinstance(size, int) else None


def _label_steps(config: TrainConfig, labels: Sequence[int], epoch: int) -> list[list[LossBatch]]:
    batches = pk_batches(
        labels,
        batch_size=config.batch_size,
        images_per_class=config.images_per_class,
        seed=config.seed,
        epoch=epoch,
    )
    _, k, _ = pk_shape(labels, config.batch_size, config.images_per_class)
    return [
        [
            LossBatch(micro, None, len(micro), (micro,))
            for micro in micro_batches(batch, _naive_size(config), k)
        ]
        for batch in batches
    ]


def _tuple_steps(config: TrainConfig, tuples: Tuples, epoch: int) -> list[list[LossBatch]]:
    order = np.random.default_rng([config.seed, epoch]).permutation(len(tuples))
    steps = _evenly(order.tolist(), config.batch_size // tuples.width)
    size = (_naive_size(config) or config.batch_size) // tuples.width
    return [[part_of(tuples, micro) for micro in _evenly(step, size)] for step in steps]


def _evenly(items: Sequence[int], size: int) -> list[list[int]]:
    """Cut ``items`` into the fewest parts of at most ``size`` items, as equal as possible."""
    count = -(-len(items) // max(size, 1))
    return [part.tolist() for part in np.array_split(np.asarray(items, dtype=np.int64), count)]


def part_of(tuples: Tuples, chosen: Sequence[int]) -> LossBatch:
    """Return the batch of some known pairs or triplets. An image in several of them comes once."""
    rows = [tuples.rows[i] for i in chosen]
    images = list(dict.fromkeys(image for row in rows for image in row))
    position = {image: place for place, image in enumerate(images)}
    columns = torch.tensor([[position[i] for i in row] for row in rows]).T  # [width, T]
    if tuples.same is None:
        triplets = Triplets(columns[0], columns[1], columns[2])
        return LossBatch(images, triplets, len(chosen), (images,))
    same = torch.tensor([tuples.same[i] for i in chosen])
    return LossBatch(images, Pairs(columns[0], columns[1], same), len(chosen), (images,))
