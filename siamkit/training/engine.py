"""How each phase of a run is computed: the whole network, or only what comes after the boundary.

At the start of a phase the engine cuts the network at the boundary, tests the cut, measures, and
decides (:mod:`siamkit.freezing.planner`) whether the frozen prefix runs for every batch or once per
image and view. Whatever it decides, the same batches give the same losses within the tolerance of
the arithmetic. The decision is part of the run's state, so a resumed run goes on as it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamkit.errors import ConfigError
from siamkit.freezing.boundary import Boundary, find_boundaries, row_elements
from siamkit.freezing.cache.budget import free_bytes
from siamkit.freezing.cache.layout import default_root
from siamkit.freezing.cache.store import OverflowInCache
from siamkit.freezing.kernels import Choice, KernelError, choose
from siamkit.freezing.planner import Costs, Decision, Work, decide, place
from siamkit.freezing.selftest import Cut, cut
from siamkit.interfaces import FreezePlan
from siamkit.model.trace import evaluating
from siamkit.training.build import Setup
from siamkit.training.caching import PhaseCache
from siamkit.training.events import Emit
from siamkit.training.loading import TEST, TRAIN, LoadedSet
from siamkit.training.sources import BatchSource, LiveSource
from siamkit.training.survey import Sample, Survey, sample, survey

_TESTED = 2
_GB = 1_000_000_000

Record = Mapping[str, Any]


@dataclass
class Route:
    """How the batches of a phase become embeddings.

    Attributes:
        sources: Gives the batches of each image set.
        forward: From what a source gives to embeddings ``[N, E]``.
        views: Views an image; None for a new one every epoch.
        cut: Where the network is cut; None where all of it runs.
        record: The decision and its numbers, as JSON values.
    """

    sources: Mapping[str, BatchSource]
    forward: Callable[[Tensor], Tensor]
    views: int | None
    cut: Cut | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def view(self, epoch: int) -> int:
        """Return which view of its images an epoch sees."""
        return epoch if self.views is None else epoch % self.views

    @property
    def gives_features(self) -> bool:
        """Whether the sources give the backbone's features."""
        return self.cut is not None and self.cut.boundary.is_features


@dataclass(frozen=True)
class Course:
    """What was decided for a phase, before anything is filled.

    Attributes:
        found: Where the network is cut.
        passed_over: Why boundaries before it are not used.
        cache: The rows that the phase would read.
        views: Views an image; None for a new one every epoch.
        work: What is left of the phase.
        costs: What it costs.
        decision: Cached or live.
        choice: The prefix's kernel; None where the prefix never runs.
    """

    found: Cut
    passed_over: tuple[str, ...]
    cache: PhaseCache
    views: int | None
    work: Work
    costs: Costs
    decision: Decision
    choice: Choice | None

    def record(self, before: Record) -> dict[str, Any]:
        """Return the decision and its numbers, as JSON values.

        Args:
            before: The record of the phase's start; empty if it starts now.
        """
        choice = self.choice
        # A resumed run that has all its rows would else forget how it computed them.
        kernel = choice.kernel.name if choice else before.get("kernel")
        return {
            "boundary": self.found.boundary.name,
            "passed_over": list(self.passed_over),
            "kernel": kernel,
            "kernels": choice.seconds_per_image if choice else {},
            "rejected": choice.rejected if choice else {},
            "views": self.views,
            "dtype": str(self.cache.dtype).removeprefix("torch."),
            "rows": self.work.rows,
            "missing": self.work.missing,
            "decode_seconds": self.costs.decode,
            "prefix_seconds": self.costs.prefix,
            "suffix_seconds": self.costs.suffix,
            "row_bytes": self.costs.row_bytes,
            **self.decision.to_json(),
        }


def whole(reason: str) -> dict[str, Any]:
    """Return the record of a phase in which the whole network runs."""
    return {"mode": "whole", "reason": reason, "boundary": None, "kernel": None}


class Engine:
    """Finds a route for each phase.

    Args:
        setup: The parts of the run.
        sets: Its image sets.
        visits: Training images an epoch; one that comes twice counts twice.
        emit: Is told what is decided and done.
        check: Called now and then during long work; may raise to stop it.
    """

    def __init__(
        self,
        setup: Setup,
        sets: Mapping[str, LoadedSet],
        visits: int,
        emit: Emit,
        check: Callable[[], None],
    ) -> None:
        self.setup, self.sets, self.visits = setup, sets, visits
        self.emit, self.check = emit, check
        self.config = setup.config.engine
        self.root = self.config.cache_dir or default_root()
        self.budget = int(self.config.cache_gb * _GB)
        self.digests: dict[Path, bytes] = {}
        self._sample: Sample | None = None
        self._cache: PhaseCache | None = None

    def enter(self, plan: FreezePlan, epochs: range, before: Record) -> Route:
        """Decide, fill the cache if there is one, and return the route for the rest of a phase.

        Args:
            plan: The plan that was applied.
            epochs: The epochs left in it.
            before: What was decided when the phase began; empty if it begins now.
        """
        self.close()
        course = self.decide(plan, epochs, before)
        if not isinstance(course, Course):
            return self._whole(course)
        record = course.record(before)
        if course.decision.mode == "live":
            return self._live(course, record)
        self._cache = course.cache
        try:
            record["missing"], trusted = self._fill(course)
        except OverflowInCache as error:
            self.emit("notice", {"text": str(error)})
            return self.enter(plan, epochs, {"views": course.views, "dtype": "float32"})
        if trusted:
            sources = course.cache.sources()
            return Route(sources, course.found.suffix, course.views, course.found, record)
        reason = "the cache differs from the network"
        return self.enter(plan, epochs, {**record, "mode": "live", "reason": reason})

    def close(self) -> None:
        """Let the cache of the phase go, so that others may make room of it."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def decide(self, plan: FreezePlan, epochs: range, before: Record) -> Course | str:
        """Cut, measure and decide; return why the whole network runs where it cannot be cut.

        Args:
            plan: The plan that was applied.
            epochs: The epochs left in it.
            before: What was decided when the phase began; empty if it begins now.
        """
        if before.get("mode") == "whole":
            return str(before["reason"])
        net, config = self.setup.net, self.setup.config
        if self._sample is None:
            self._sample = sample(self.sets[TRAIN], self.setup.device)
        images = self._sample.images
        boundaries = find_boundaries(net, self.setup.stages, plan)
        deepest, passed_over = cut(net, boundaries, images[:_TESTED])
        if deepest is None:
            return "; ".join(passed_over) or "no part of the network is frozen from the start on"
        usable = boundaries[boundaries.index(deepest.boundary) :]
        sizes = self._row_bytes(usable, images[:1])
        index, views = place(
            list(sizes.values()), len(self.sets[TRAIN].images), self._held_out(), len(epochs),
            config.data.views, self.budget,
        )  # fmt: skip
        if before:
            views = before["views"]
        found = deepest
        if index and before.get("mode") != "live":
            smaller, more = cut(net, list(sizes)[index:], images[:_TESTED])
            if smaller is not None:
                fits = f"{deepest.boundary.name}: too large for engine.cache_gb at each view"
                found, passed_over = smaller, [*passed_over, fits, *more]
        course = self._course(found, passed_over, views, epochs, before)
        if course.decision.mode == "live" and found is not deepest:
            # Nothing is kept, so nothing is gained by a smaller output.
            course = self._course(deepest, passed_over, views, epochs, {**before, "mode": "live"})
        return course

    def _course(
        self,
        found: Cut,
        passed_over: Sequence[str],
        views: int | None,
        epochs: range,
        before: Record,
    ) -> Course:
        assert self._sample is not None
        seen = survey(self.setup.net, found, self._sample.images)
        dtype: torch.dtype = getattr(torch, before.get("dtype") or self._dtype(found.boundary))
        cache = PhaseCache(
            self.setup, self.sets, found, seen.activations, dtype, self.root, self.digests
        )
        cache.want(sorted({e if views is None else e % views for e in epochs}))
        work = Work(
            len(epochs),
            self.visits,
            self._held_out(),
            cache.rows,
            cache.rows if self.config.cache == "off" else cache.missing(self.emit),
        )
        costs = Costs(self._sample.seconds, seen.prefix, seen.suffix, cache.row_bytes)
        decision = self._decide(work, costs, before)
        count = work.missing if decision.mode == "cached" else work.forwards
        choice = self._choose(found, seen, count, before)
        if choice is not None:
            fastest = choice.seconds_per_image.get(choice.kernel.name, seen.prefix)
            costs = replace(costs, prefix=fastest)
            if decision.mode == "cached":
                decision = self._decide(work, costs, before)
        return Course(found, tuple(passed_over), cache, views, work, costs, decision, choice)

    def _held_out(self) -> int:
        """Return how many images are evaluated after each epoch."""
        return sum(len(s.images) for name, s in self.sets.items() if name not in (TRAIN, TEST))

    def _dtype(self, boundary: Boundary) -> str:
        return "float32" if boundary.is_features else self.config.dtype

    def _row_bytes(self, boundaries: Sequence[Boundary], image: Tensor) -> dict[Boundary, int]:
        elements = row_elements(self.setup.net, boundaries, image)
        sized = zip(boundaries, elements, strict=True)
        return {b: n * getattr(torch, self._dtype(b)).itemsize for b, n in sized if n is not None}

    def _decide(self, work: Work, costs: Costs, before: Record) -> Decision:
        wanted = self.config.cache
        if before.get("mode") == "live" and before.get("reason"):
            # The phase goes on as it began, so that a resumed run gives what it would have given.
            decision = decide(work, costs, budget=self.budget, free=0, wanted="off")
            return replace(decision, reason=before["reason"])
        if wanted == "auto" and before.get("mode") == "cached":
            wanted = "always"
        free = free_bytes(self.root)
        return decide(work, costs, budget=self.budget, free=free, wanted=wanted)

    def _choose(self, found: Cut, seen: Survey, count: int, before: Record) -> Choice | None:
        """Return the kernel for ``count`` images; None where there are none."""
        if not count:
            return None
        assert self._sample is not None
        images, plain = self._sample.images, (seen.activations, seen.prefix)
        wanted = str(before.get("kernel") or self.config.prefix)
        precision = self.setup.config.train.precision
        with evaluating(self.setup.net):
            try:
                return choose(
                    found.prefix, images, count, wanted=wanted, precision=precision, plain=plain
                )
            except (ConfigError, KernelError):
                if not before.get("kernel"):
                    raise
                # The run goes on where that kernel is not installed.
                return choose(found.prefix, images, count, precision=precision, plain=plain)

    # --- the routes ------------------------------------------------------------------------

    def _whole(self, reason: str) -> Route:
        views = self.setup.config.data.views
        sources = {name: part.loader for name, part in self.sets.items()}
        return Route(sources, self.setup.net.forward_single, views, None, whole(reason))

    def _live(self, course: Course, record: dict[str, Any]) -> Route:
        assert course.choice is not None
        kernel = course.choice.kernel
        sources = {name: LiveSource(part.loader, kernel) for name, part in self.sets.items()}
        return Route(sources, course.found.suffix, course.views, course.found, record)

    def _fill(self, course: Course) -> tuple[int, bool]:
        """Fill the cache; return how many rows that took, and whether they are the network's."""
        cache, choice = course.cache, course.choice
        kernel = choice.kernel if choice else None
        computed = cache.fill(kernel, self.budget, self.emit, self.check)
        apart = cache.discrepancy(course.found.prefix, self.setup.device)
        if apart <= cache.tolerance:
            return computed, True
        text = (
            f"the cache in {self.root} differs from the network by {apart:.1e} of its largest "
            f"value, and {cache.tolerance:.0e} is the most: this phase runs without it ('siamkit "
            "cache clear' empties it)"
        )
        self.emit("notice", {"text": text})
        return computed, False
