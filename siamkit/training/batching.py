"""Batching: the micro-batches of each step, with their known pairs or triplets.

Batches are pure functions of (images, sizes, seed, epoch), so a resumed run needs only its epoch
and step to continue with the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from siamkit.config import TrainConfig
from siamkit.data.images import ImageSet, Tuples
from siamkit.data.sampler import pk_batches, pk_shape
from siamkit.errors import DataError
from siamkit.interfaces import Pairs, Triplets
from siamkit.training.step import BatchTuples, micro_batches


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch. An optimizer step has one or several.

    Attributes:
        images: Indices into the image set.
        tuples: Known pairs or triplets, as positions in ``images``; None if the loss mines pairs or
            triplets by label.
        size: The weight in the mean over the step: the number of tuples, or the number of images if
            there are no known tuples.
    """

    images: list[int]
    tuples: BatchTuples | None
    size: int


def batch_notices(config: TrainConfig, images: ImageSet) -> tuple[str, ...]:
    """Return notices for the user about the batches.

    Raises:
        DataError: No batch can be made.
    """
    if images.tuples is None:
        _, _, notices = pk_shape(images.labels, config.batch_size, config.images_per_class)
        return notices
    width = images.tuples.width
    if (config.micro_batch or config.batch_size) < width:
        raise DataError(
            f"a batch holds no {'pair' if width == 2 else 'triplet'}",
            where="train.batch_size",
            got=config.batch_size,
            allowed=f"{width} or more",
        )
    return ()


def epoch_steps(config: TrainConfig, images: ImageSet, epoch: int) -> list[list[MicroBatch]]:
    """Return the micro-batches of each step of an epoch.

    With labels, each step is a P x K batch. Known pairs or triplets each come once per epoch, in
    random order; a step has at most ``batch_size`` images in its pairs (2 each) or triplets (3).
    """
    if images.tuples is not None:
        return _tuple_steps(config, images.tuples, epoch)
    batches = pk_batches(
        images.labels,
        batch_size=config.batch_size,
        images_per_class=config.images_per_class,
        seed=config.seed,
        epoch=epoch,
    )
    _, k, _ = pk_shape(images.labels, config.batch_size, config.images_per_class)
    return [
        [
            MicroBatch(micro, None, len(micro))
            for micro in micro_batches(batch, config.micro_batch, k)
        ]
        for batch in batches
    ]


def _tuple_steps(config: TrainConfig, tuples: Tuples, epoch: int) -> list[list[MicroBatch]]:
    order = np.random.default_rng([config.seed, epoch]).permutation(len(tuples))
    steps = _evenly(order.tolist(), config.batch_size // tuples.width)
    size = (config.micro_batch or config.batch_size) // tuples.width
    return [[part_of(tuples, micro) for micro in _evenly(step, size)] for step in steps]


def _evenly(items: Sequence[int], size: int) -> list[list[int]]:
    """Cut ``items`` into the fewest parts of at most ``size`` items, as equal as possible."""
    count = -(-len(items) // max(size, 1))
    return [part.tolist() for part in np.array_split(np.asarray(items, dtype=np.int64), count)]


def part_of(tuples: Tuples, chosen: Sequence[int]) -> MicroBatch:
    """Return the micro-batch of some tuples. An image in several tuples comes once."""
    rows = [tuples.rows[i] for i in chosen]
    images = list(dict.fromkeys(image for row in rows for image in row))
    position = {image: place for place, image in enumerate(images)}
    columns = torch.tensor([[position[i] for i in row] for row in rows]).T  # [width, T]
    if tuples.same is None:
        return MicroBatch(images, Triplets(columns[0], columns[1], columns[2]), len(chosen))
    same = torch.tensor([tuples.same[i] for i in chosen])
    return MicroBatch(images, Pairs(columns[0], columns[1], same), len(chosen))
