"""The planner: decides whether the frozen prefix runs once per image or for every batch. Pure.

The prefix is a fixed function, so its output can be kept for each image and view: the *cached* way
fills the cache once and then reads. The *live* way runs the prefix for every batch. Both learn the
same; this module only counts what either costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["live", "cached"]

AUTO_VIEWS = 8
"""Views an image where a prefix is frozen and the config leaves it open."""

WORTHWHILE = 3.0
"""Seconds that caching must save: a run that is over in a moment needs no files on the disk."""

_WRITE = 250e6  # bytes a second, flushed and checksummed; measured on a laptop-class SSD
_READ = 800e6  # bytes a second: what a checksum takes, which each row costs once


@dataclass(frozen=True)
class Work:
    """What is left of a phase.

    Attributes:
        epochs: Epochs left.
        visits: Training images an epoch; one that comes twice counts twice.
        held_out: Images evaluated after each epoch.
        rows: Different images and views in all of it.
        missing: Those of ``rows`` that the cache doesn't hold yet.
    """

    epochs: int
    visits: int
    held_out: int
    rows: int
    missing: int

    @property
    def forwards(self) -> int:
        """How often the prefix runs without a cache."""
        return self.epochs * (self.visits + self.held_out)


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        decode: Seconds to load an image and draw a view of it.
        prefix: Seconds an image in the prefix.
        suffix: Seconds an image in what comes after it, backward included.
        row_bytes: Bytes that the prefix's output takes for one image.
    """

    decode: float
    prefix: float
    suffix: float
    row_bytes: int


@dataclass(frozen=True)
class CachePlan:
    """Whether a phase reads its prefix from a cache, and the numbers that decided.

    Attributes:
        mode: ``cached`` or ``live``.
        reason: Why, in a few words.
        live: Estimated seconds for the rest of the phase without a cache.
        cached: The same with it.
        bytes: What the cache would hold of this phase.
    """

    mode: Mode
    reason: str
    live: float
    cached: float
    bytes: int


def decide(
    work: Work, costs: Costs, *, budget: int, free: int, wanted: Literal["auto", "off", "always"]
) -> CachePlan:
    """Return how to run what is left of a phase.

    Args:
        work: What is left.
        costs: What it costs.
        budget: Bytes that the cache may take.
        free: Bytes that it could get on its disk.
        wanted: ``auto`` decides by the time, within the space there is; ``off`` is always live;
            ``always`` is cached within the budget, whatever it saves.
    """
    image = costs.decode + costs.prefix
    training = work.epochs * work.visits * costs.suffix
    size = work.rows * costs.row_bytes
    live = work.forwards * image + training
    cached = (
        work.missing * (image + costs.row_bytes / _WRITE)
        + (size + work.forwards * costs.row_bytes) / _READ
        + training
    )

    def plan(mode: Mode, reason: str) -> CachePlan:
        return CachePlan(mode, reason, live, cached, size)

    if wanted == "off":
        return plan("live", "the cache is off")
    if size > budget:
        return plan("live", "the cache would be larger than engine.cache_gb allows")
    if wanted == "always":
        return plan("cached", "asked for")
    if work.missing * costs.row_bytes > free:
        return plan("live", "there is too little room on the disk, or it cannot be written")
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
    """Return where to cut for the cache, and how many views an image has; None is ever new ones.

    The deepest boundary saves the most, but a shallower one may have smaller activations: it is
    taken where the deepest one's do not fit the budget. All depends on the configuration and the
    data alone, never on a measurement: views decide what is learned, which must not differ between
    machines.

    Args:
        row_bytes: Bytes of one image at each boundary, deepest first.
        images: Training images.
        held_out: Images to evaluate, in one view each.
        epochs: Epochs in the phase.
        wanted: The views that the config asks for; None leaves them open.
        budget: Bytes that the cache may take.

    Returns:
        An index into ``row_bytes``, and the views.
    """
    views = wanted or AUTO_VIEWS
    fitting = [(budget // max(size, 1) - held_out) // images for size in row_bytes]
    for index, most in enumerate(fitting):
        if most >= min(views, epochs):
            return index, views
    most = max(fitting)
    if wanted is None and most >= 2:
        return fitting.index(most), most
    # One view alone would be no augmentation at all: then rather a new one every epoch.
    return 0, wanted
