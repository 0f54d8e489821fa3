"""How each phase of a run is computed: the whole network, or only what comes after the boundary.

At the start of a phase the engine cuts the network at the boundary, tests the cut, measures, and
decides (:mod:`siamkit.engine.planner`) whether the frozen prefix runs for every batch or once per
image and view. Whatever it decides, the same batches give the same losses within the tolerance of
the arithmetic. The decision is part of the run's state, so a resumed run goes on as it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.data.rowkeys import FileDigest
from siamkit.engine.boundary import Boundary, find_boundaries, row_elements
from siamkit.engine.cache.budget import available_bytes
from siamkit.engine.cache.layout import default_root
from siamkit.engine.cache.store import OverflowInCache
from siamkit.engine.cutting import Cut, first_exact_cut
from siamkit.engine.kernels import Choice, choose
from siamkit.engine.phase_cache import PhaseCache, Telling
from siamkit.engine.planner import Costs, Decision, Work, decide, place
from siamkit.engine.routes import Course, Record, Route, whole
from siamkit.engine.sources import CachedSource, LiveSource
from siamkit.engine.timing import Sample, Survey, sample, survey
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan
from siamkit.model.trace import evaluating
from siamkit.runs.events import Emit
from siamkit.training.build import Setup
from siamkit.training.loading import TEST, TRAIN, LoadedSet

_TESTED = 5
_GB = 1_000_000_000


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
        self.digests: dict[Path, FileDigest] = {}
        self._sample: Sample | None = None
        self._open: Course | None = None

    def close(self) -> None:
        """Let the cache of the phase go, so that others may make room of it."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def enter(self, plan: FreezePlan, epochs: range, before: Record) -> Route:
        """Decide how the rest of a phase is computed. :meth:`prepare` comes before each epoch.

        Args:
            plan: The plan that was applied.
            epochs: The epochs left in it.
            before: What was decided when the phase began; empty if it begins now.
        """
        self.close()
        course = self.decide(plan, epochs, before)
        sources: dict[str, BatchSource]
        if not isinstance(course, Course):
            sources = {name: part.loader for name, part in self.sets.items()}
            views = self.setup.config.data.views
            return Route(sources, self.setup.net, views, epochs, whole(course))
        if course.decision.mode == "live":
            course.close()
            assert course.choice is not None
            kernel = course.choice.kernel
            sources = {name: LiveSource(part.loader, kernel) for name, part in self.sets.items()}
        else:
            assert course.cache is not None
            self._open = course
            sources = {
                name: CachedSource(part.images.labels) for name, part in course.cache.sets.items()
            }
        return Route(
            sources, course.found.suffix, course.views, epochs, course.record(before), course
        )

    def prepare(self, route: Route, plan: FreezePlan, epoch: int) -> Route:
        """Compute what an epoch reads from the cache and isn't there; views of later epochs wait.

        Args:
            route: The phase's.
            plan: The plan that was applied.
            epoch: The epoch.

        Returns:
            The route; another one where the cache proved to be of no use.
        """
        course = route.course
        if course is None or course.decision.mode == "live":
            return route
        rest = range(epoch, route.epochs.stop)
        try:
            reason = self._stock(route, course, route.view(epoch))
        except OverflowInCache as error:
            self.emit("notice", {"text": str(error)})
            before = {"views": course.views, "dtype": "float32"}
            return self.prepare(self.enter(plan, rest, before), plan, epoch)
        if reason is None:
            return route
        self.emit("notice", {"text": reason})
        told = "the cache differs from the network"
        return self.enter(plan, rest, {**route.record, "mode": "live", "reason": told})

    def decide(self, plan: FreezePlan, epochs: range, before: Record) -> Course | str:
        """Cut, measure and decide; return why the whole network runs where it cannot be cut.

        Args:
            plan: The plan that was applied.
            epochs: The epochs left in it.
            before: What was decided when the phase began; empty if it begins now.
        """
        if before.get("mode") == "whole":
            return str(before["reason"])
        net = self.setup.net
        if self._sample is None:
            self._sample = sample(self.sets[TRAIN], self.setup.device)
        images = self._sample.images
        boundaries = find_boundaries(net, self.setup.stages, plan)
        if "module" in before:
            known = [b.module for b in boundaries]
            start = known.index(before["module"]) if before["module"] in known else 0
            boundaries = boundaries[start:]
        deepest, passed_over = first_exact_cut(net, boundaries, images[:_TESTED])
        if deepest is None:
            return "; ".join(passed_over) or "no part of the network is frozen from the start on"
        if before:
            # The phase goes on where it began, so that a resumed run gives what it would have.
            return self._course(deepest, passed_over, before["views"], epochs, before)
        usable = boundaries[boundaries.index(deepest.boundary) :]
        sizes = self._row_bytes(usable, images[:1])
        index, views = place(
            list(sizes.values()), len(self.sets[TRAIN].images), self._held_out(), len(epochs),
            self._wanted_views(), self.budget,
        )  # fmt: skip
        if index:
            smaller, more = first_exact_cut(net, list(sizes)[index:], images[:_TESTED])
            if smaller is not None:
                fits = f"{deepest.boundary.name}: too large for engine.cache_gb at each view"
                reasons = [*passed_over, fits, *more]
                course = self._course(smaller, reasons, views, epochs, {})
                if course.decision.mode == "cached":
                    return course
                course.close()
        # Where nothing is kept, nothing is gained by a smaller output.
        return self._course(deepest, passed_over, views, epochs, before)

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
        reached = sorted({e if views is None else e % views for e in epochs})
        rows = len(self.sets[TRAIN].images) * len(reached) + self._held_out()
        work = Work(len(epochs), self.visits, self._held_out(), rows, rows)
        cache = None
        if self._may_cache(before):
            telling = Telling(self.emit, self.check)
            shape = seen.activations.shape[1:]
            cache = PhaseCache(
                self.setup, self.sets, found, shape, dtype, self.root, self.digests, telling
            )
            rows, missing = cache.want(reached)
            work = replace(work, rows=rows, missing=missing)
        row_bytes = seen.activations[0].numel() * dtype.itemsize
        costs = Costs(self._sample.seconds, seen.prefix, seen.suffix, row_bytes)
        decision = self._decide(work, costs, before)
        count = work.missing if decision.mode == "cached" else work.forwards
        choice = self._choose(found, seen, count, before) if count else None
        if choice is not None:
            fastest = choice.seconds_per_image.get(choice.kernel.name, seen.prefix)
            costs = replace(costs, prefix=fastest)
            if decision.mode == "cached":
                decision = self._decide(work, costs, before)
        return Course(
            found, tuple(passed_over), seen, dtype, cache, views, work, costs, decision, choice
        )

    def _may_cache(self, before: Record) -> bool:
        """Tell whether the cache's folder need be looked at; where nothing can be written, not."""
        if self.config.cache == "off" or before.get("mode") == "live":
            return False
        forced = self.config.cache == "always" or before.get("mode") == "cached"
        return forced or available_bytes(self.root) > 0

    def _held_out(self) -> int:
        """Return how many images are evaluated after each epoch."""
        return sum(len(s.images) for name, s in self.sets.items() if name not in (TRAIN, TEST))

    def _wanted_views(self) -> int | None:
        """Return the views that an image is to have; None leaves them open."""
        config = self.setup.config.data
        return config.views if config.augment.enabled else 1

    def _dtype(self, boundary: Boundary) -> str:
        return "float32" if boundary.is_features else self.config.dtype

    def _row_bytes(self, boundaries: Sequence[Boundary], image: Tensor) -> dict[Boundary, int]:
        elements = row_elements(self.setup.net, boundaries, image)
        sized = zip(boundaries, elements, strict=True)
        return {b: n * getattr(torch, self._dtype(b)).itemsize for b, n in sized if n is not None}

    def _decide(self, work: Work, costs: Costs, before: Record) -> Decision:
        wanted = self.config.cache
        if before.get("mode") == "live" and before.get("reason"):
            # As it began, whatever a measurement would say now.
            decision = decide(work, costs, budget=self.budget, free=0, wanted="off")
            return replace(decision, reason=before["reason"])
        if wanted == "auto" and before.get("mode") == "cached":
            wanted = "always"
        free = 0 if wanted == "off" else available_bytes(self.root)
        return decide(work, costs, budget=self.budget, free=free, wanted=wanted)

    def _choose(self, found: Cut, seen: Survey, count: int, before: Record) -> Choice:
        """Return the kernel for ``count`` images."""
        assert self._sample is not None
        run = partial(
            choose,
            found.prefix,
            self._sample.images,
            count,
            precision=self.setup.config.train.precision,
            plain=(seen.activations, seen.prefix),
        )
        wanted = before.get("kernel") or self.config.prefix
        with evaluating(self.setup.net):
            try:
                return run(wanted=wanted)
            except ConfigError as error:
                if wanted == self.config.prefix:
                    raise
                text = f"the kernel that the phase began with cannot be used any more: {error}"
                self.emit("notice", {"text": text})
                return run()

    def _stock(self, route: Route, course: Course, view: int) -> str | None:
        """Let the sources show what an epoch reads; return what is wrong with it, if anything."""
        cache = course.cache
        assert cache is not None
        sources = {n: s for n, s in route.sources.items() if isinstance(s, CachedSource)}
        views = {name: view if name == TRAIN else 0 for name in sources}
        views = {name: v for name, v in views.items() if not sources[name].shows(v)}
        if not views:
            return None
        while True:
            absent = cache.absent(views)
            if absent and course.choice is None:
                course.choice = self._choose(course.found, course.seen, absent, route.record)
            kernel = course.choice.kernel if absent and course.choice else None
            try:
                rows = cache.load(views, kernel, self.budget)
            except LookupError:  # another process made room of them meanwhile
                continue
            break
        if absent or len(views) > 1:
            apart = cache.discrepancy(view, rows[TRAIN])
            if not apart <= cache.tolerance:
                return (
                    f"the cache in {self.root} differs from the network by {apart:.1e} of its "
                    f"largest value, and {cache.tolerance:.0e} is the most: this phase runs "
                    "without it ('siamkit cache clear' empties it)"
                )
        for name, v in views.items():
            sources[name].show(v, rows[name])
        return None
