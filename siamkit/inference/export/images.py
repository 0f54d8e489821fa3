"""The images of a run, prepared for its network: to check, quantize and measure an export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siamkit.data.images import ImageSet
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.views import EvalView
from siamkit.inference.export.runners import Array, Runner
from siamkit.interfaces import Preprocessing

BATCH = 32
"""Images per batch."""

_BYTES = 1 << 29  # of prepared images that are held in memory at once


@dataclass(frozen=True)
class PreparedImages:
    """Images of a run, which are decoded and prepared batch by batch.

    Attributes:
        images: The images.
        preprocessing: How the network wants images to be prepared.
        max_pixels: The most pixels that an image file may have.
    """

    images: ImageSet
    preprocessing: Preprocessing
    max_pixels: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def most(self) -> int:
        """The number of images that may be held in memory at once."""
        height, width = self.preprocessing.size
        return max(BATCH, _BYTES // (4 * self.preprocessing.channels * height * width))

    def batches(self, indices: Sequence[int] | None = None) -> Iterator[Array]:
        """Yield the prepared images ``[N, C, H, W]``, float32, in batches of up to :data:`BATCH`.

        Args:
            indices: The images to prepare, in this order; None: all.

        Raises:
            DataError: An image cannot be decoded.
        """
        order = range(len(self.images)) if indices is None else indices
        view = EvalView(self.preprocessing)
        dataset = ViewDataset(self.images, view, seed=0, max_pixels=self.max_pixels)
        parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        with Loader(dataset, default_workers(len(order))) as loader:
            for batch in loader.batches(parts):
                yield batch.inputs.numpy()

    def together(self, indices: Sequence[int] | None = None) -> Array:
        """Return prepared images ``[N, C, H, W]`` as one array; see :meth:`batches`."""
        return np.concatenate(list(self.batches(indices)))

    def cycled(self, count: int) -> Array:
        """Return ``count`` prepared images; they repeat if there are fewer."""
        return self.together([number % len(self.images) for number in range(count)])


def embedded(
    runners: Mapping[str, Runner], batches: Iterator[Array] | Sequence[Array]
) -> dict[str, Array]:
    """Return the embeddings ``[N, E]`` by each runner, with one pass over the images.

    Args:
        runners: The runners by name.
        batches: The prepared images, in batches.
    """
    parts: dict[str, list[Array]] = {name: [] for name in runners}
    for batch in batches:
        for name, run in runners.items():
            parts[name].append(run(batch))
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def drawn(images: ImageSet, count: int, seed: int) -> list[int]:
    """Return the indices of ``count`` images that are spread evenly over the classes.

    Args:
        images: The images.
        count: The number of images; all if there are fewer.
        seed: The seed of the draw.
    """
    rng = np.random.default_rng(seed)
    rank: dict[int, int] = {}
    keyed: list[tuple[int, int, int]] = []
    labels = images.labels
    for index in rng.permutation(len(labels)).tolist():
        number = rank[labels[index]] = rank.get(labels[index], -1) + 1
        keyed.append((number, len(keyed), index))
    return sorted(index for _, _, index in sorted(keyed)[:count])


def part_of(images: ImageSet, most: int, seed: int) -> ImageSet:
    """Return a part of a set that can be evaluated like the set: whole classes, or some tuples.

    Args:
        images: The set.
        most: The most images of the part; it has at least two classes, or one tuple.
        seed: The seed of the choice.
    """
    if len(images) <= most:
        return images
    rng = np.random.default_rng(seed)
    if images.tuples is not None:
        share = most / len(images)
        flags = images.tuples.same or (True,) * len(images.tuples)
        order = rng.permutation(len(flags)).tolist()
        kinds = [[number for number in order if flags[number] is kind] for kind in (True, False)]
        kept = [n for kind in kinds for n in kind[: max(1, int(share * len(kind)))]]
        return images.with_tuples(sorted(kept))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(images.labels):
        members.setdefault(label, []).append(index)
    chosen: list[int] = []
    for number, label in enumerate(rng.permutation(sorted(members)).tolist()):
        if number >= 2 and len(chosen) + len(members[label]) > most:
            break
        chosen += members[label]
    return images.subset(chosen)
