"""P x K batches: K images of each of P classes, so that every batch has positives and negatives.

Batches are a pure function of (labels, sizes, seed, epoch), so a run can resume from the numbers of
its epoch and step alone. Images, batches and additional classes are drawn from decks. A deck
returns each of its items once, in random order, before it repeats any item. So every image is used,
and the images of a class are drawn about equally often, also if classes are unbalanced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np

from siamkit.errors import DataError
from siamkit.spelling import setting
from siamkit.words import plural

_MANY = 3.0
"""An epoch that shows more than this many times the number of training images gets a notice."""


def pk_shape(
    labels: Sequence[int], batch_size: int, images_per_class: int
) -> tuple[int, int, tuple[str, ...]]:
    """Return P (classes per batch), K (images per class), and notices for the user.

    Too few classes or images can make P and K smaller than requested.

    Args:
        labels: The class of each training image.
        batch_size: The requested number of images per batch, P x K.
        images_per_class: The requested K.

    Raises:
        DataError: There are fewer than two classes, or no class has two images.
    """
    counts = Counter(labels)
    largest = max(counts.values(), default=0)
    if len(counts) < 2 or largest < 2:
        raise DataError(
            "batches need at least two classes, and two images in one of them",
            got=f"{plural(len(counts), 'class')}, {plural(largest, 'image')} in the largest",
            hint="add classes or images",
        )
    notices = []
    k = min(images_per_class, largest)
    if k < images_per_class:
        notices.append(
            f"batches have {plural(k, 'image')} per class instead of {images_per_class}, because "
            f"no class has more: use {setting('train.images_per_class', k)}, or add images"
        )
    p = min(max(batch_size // k, 2), len(counts))
    if p * k != batch_size:
        why = f"there are only {p} classes" if p == len(counts) else f"a multiple of {k} is needed"
        notices.append(
            f"batches have {p} classes x {plural(k, 'image')} = {p * k} images instead of "
            f"{batch_size}, because {why}: use {setting('train.batch_size', p * k)}"
            + (", or add classes" if p == len(counts) else "")
        )
    if small := sum(count < k for count in counts.values()):
        notices.append(
            f"{small} of {len(counts)} classes have fewer than {k} images: some of these images "
            f"appear more than once in a batch; add images, or lower "
            f"{setting('train.images_per_class')}"
        )
    steps, shown = _count(counts.values(), p, k), len(labels)
    if steps > -(-_visits(counts.values(), k) // p) and steps * p * k > _MANY * shown:
        notices.append(
            f"an epoch shows {steps * p * k} images, {steps * p * k / shown:.1f} times as many as "
            f"there are. It takes {plural(steps, 'batch')} to show all {largest} images of the "
            f"largest class and repeats images of the others: use fewer images of this class, "
            f"raise {setting('train.images_per_class')}, or lower {setting('train.batch_size')}"
        )
    return p, k, tuple(notices)


def _count(sizes: Collection[int], p: int, k: int) -> int:
    """Return the number of batches of an epoch: the fewest that show all images of each class.

    No batch has a class twice, so the largest class may decide the number.
    """
    return max(-(-_visits(sizes, k) // p), -(-max(sizes) // k))


def _visits(sizes: Iterable[int], k: int) -> int:
    """Return the number of groups of ``k`` images that hold all images, summed over the classes."""
    return sum(-(-size // k) for size in sizes)


def pk_batches(
    labels: Sequence[int], *, batch_size: int, images_per_class: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return the batches of one epoch, as indices into ``labels``.

    Every image is in at least one batch. Each batch has P different classes and K images of each
    class; :func:`pk_shape` returns P and K. The images of a class stand side by side, so positives
    stay together in micro-batches whose size is a multiple of K. If the images cannot be divided
    evenly, some are in several batches. Only a class with fewer than K images repeats images within
    a batch.

    Args:
        labels: The class of each training image.
        batch_size: The requested number of images per batch.
        images_per_class: The requested K.
        seed: The run's seed.
        epoch: The number of the epoch.

    Raises:
        DataError: See :func:`pk_shape`.
    """
    p, k, _ = pk_shape(labels, batch_size, images_per_class)
    rng = np.random.default_rng([seed, epoch])
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    images = {label: _Deck(members[label], rng) for label in sorted(members)}
    # The number of batches that each class needs.
    visits = {label: -(-len(members[label]) // k) for label in images}
    count = _count([len(own) for own in members.values()], p, k)
    classes = _Deck(list(images), rng)
    present: list[list[int]] = [[] for _ in range(count)]
    # Batches are drawn from a deck too. Their numbers of classes differ by at most one, so no batch
    # gets more than P classes.
    batches = _Deck(range(count), rng)
    for label in classes.draw(len(images)):
        for batch in batches.draw(visits[label]):
            present[batch].append(label)
    for batch_classes in present:
        batch_classes += classes.draw(p - len(batch_classes), without=batch_classes)
    return [[index for label in batch for index in images[label].draw(k)] for batch in present]


class _Deck:
    """Items that are drawn in random order; each is drawn once before any is drawn again."""

    def __init__(self, items: Collection[int], rng: np.random.Generator) -> None:
        self._items = list(items)
        self._rng = rng
        self._pile: list[int] = []  # the next item is the last
        self._owed: Counter[int] = Counter()  # passed over as barred: they come first

    def draw(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Return ``count`` items, none of them in ``without``.

        They are all different if the deck has enough other items.
        """
        drawn: list[int] = []
        free = len(self._items) - len(set(without))
        while len(drawn) < count:
            drawn += self._different(min(count - len(drawn), free), set(without))
        return drawn

    def _different(self, count: int, barred: set[int]) -> list[int]:
        """Return ``count`` different items outside ``barred``, and add them to ``barred``."""
        drawn = list(islice((item for item in self._owed if item not in barred), count))
        barred.update(drawn)
        for item in drawn:
            self._owed[item] -= 1
            if not self._owed[item]:
                del self._owed[item]
        while len(drawn) < count:
            if not self._pile:
                order = self._rng.permutation(len(self._items))
                self._pile = [self._items[i] for i in reversed(order)]
            item = self._pile.pop()
            if item in barred:
                self._owed[item] += 1
            else:
                drawn.append(item)
                barred.add(item)
        return drawn
