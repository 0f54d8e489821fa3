"""The planner: decides whether the frozen prefix runs once per image or for every batch.

The prefix is a fixed function, so its output (a *row*) can be stored for each image and view (an
augmented version of the image). The *cached* mode fills the cache once and then reads it. The
*live* mode runs the prefix for every batch. The network learns the same in both modes, so the
planner only compares their costs. It measures and stores nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["live", "cached"]

AUTO_VIEWS = 8
"""Views per image if a prefix is frozen and the config leaves the number open."""

WORTHWHILE = 3.0
"""Seconds that caching must save, so that very short runs write no files."""

# Seconds per byte, measured on a laptop-class SSD.
_WRITE = 4e-9  # flushed and checksummed
_READ = 1.25e-9  # of reading, and of the checksum, which is computed once per row


@dataclass(frozen=True)
class Work:
    """The work that is left in a phase.

    Attributes:
        epochs: Epochs left.
        visits: Training images per epoch; an image that comes twice counts twice.
        held_out: Images evaluated after each epoch.
        rows: Number of different pairs of image and view in the remaining epochs.
        missing: Number of these pairs whose rows the cache does not hold yet.
    """

    epochs: int
    visits: int
    held_out: int
    rows: int
    missing: int

    @property
    def forwards(self) -> int:
        """The number of images that the prefix computes without a cache."""
        return self.epochs * (self.visits + self.held_out)


@dataclass(frozen=True)
class Costs:
    """The measured costs per image.

    Attributes:
        decode: Seconds to load an image and compute a view of it.
        prefix: Seconds per image in the prefix.
        suffix: Seconds per image in the suffix, backward included.
        row_bytes: Bytes of the prefix's output for one image.
    """

    decode: float
    prefix: float
    suffix: float
    row_bytes: int


@dataclass(frozen=True)
class CachePlan:
    """The mode of a phase, and the numbers behind it.

    Attributes:
        mode: ``cached`` or ``live``.
        reason: The reason, in a few words.
        live: Estimated seconds for the rest of the phase without a cache.
        cached: Estimated seconds for the rest of the phase with a cache.
        bytes: Bytes that the cache would hold for this phase.
    """

    mode: Mode
    reason: str
    live: float
    cached: float
    bytes: int


def decide(
    work: Work, costs: Costs, *, budget: int, free: int, wanted: Literal["auto", "off", "always"]
) -> CachePlan:
    """Return the mode for the rest of a phase.

    Args:
        work: The work that is left.
        costs: The measured costs.
        budget: Bytes that the cache may take.
        free: Bytes that the cache could get on its disk.
        wanted: ``auto`` picks the faster mode within the available space; ``off`` is always live;
            ``always`` is cached within the budget, whatever time it saves.
    """
    image = costs.decode + costs.prefix
    training = work.epochs * work.visits * costs.suffix
    size = work.rows * costs.row_bytes
    live = work.forwards * image + training
    cached = (
        work.missing * (image + costs.row_bytes * _WRITE)
        + (size + work.forwards * costs.row_bytes) * _READ
        + training
    )

    def plan(mode: Mode, reason: str) -> CachePlan:
        return CachePlan(mode, reason, live, cached, size)

    if wanted == "off":
        return plan("live", "the cache is off")
    if size > budget:
        return plan("live", "the cache would exceed engine.cache_gb")
    if wanted == "always":
        return plan("cached", "requested by engine.cache")
    if work.missing * costs.row_bytes > free:
        return plan("live", "the disk has too little space or is not writable")
    if live - cached < WORTHWHILE:
        return plan("live", f"a cache would save less than {WORTHWHILE:.0f} seconds")
    return plan("cached", "each image and view is computed once")


def place(
    row_bytes: Sequence[int],
    images: int,
    held_out: int,
    epochs: int,
    wanted: int | None,
    budget: int,
) -> tuple[int, int | None]:
    """Return the boundary to cache at, and the number of views per image.

    The deepest boundary saves the most time. If the activations at the deepest boundary do not fit
    the budget, a shallower boundary with smaller activations is used. If none fits and the config
    leaves the number of views open, the boundary with room for the most views gets that number, if
    it is at least two. The result depends on the config and the data alone, never on a measurement,
    because views affect what the run learns, which must not differ between machines.

    Args:
        row_bytes: Bytes of one image's activations at each boundary, deepest first.
        images: Training images.
        held_out: Images to evaluate, in one view each.
        epochs: Epochs in the phase.
        wanted: The number of views in the config; None leaves it open.
        budget: Bytes that the cache may take.

    Returns:
        An index into ``row_bytes``, and the number of views; None for a new view in every epoch.
    """
    views = wanted or AUTO_VIEWS
    fitting = [(budget // max(size, 1) - held_out) // max(images, 1) for size in row_bytes]
    for index, most in enumerate(fitting):
        if most >= min(views, epochs):
            return index, views
    most = max(fitting)
    if wanted is None and most >= 2:
        return fitting.index(most), most
    # A single view would be no augmentation, so each epoch gets a new view without a cache.
    return 0, wanted
