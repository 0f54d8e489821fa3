"""The engine: decides for each phase how it is computed, and carries it out.

At the start of a phase the engine cuts the network at the boundary, tests the cut, measures, and
decides (:mod:`siamkit.engine.planner`) whether the frozen prefix runs for every batch or once per
image and view. Whatever it decides, the same batches give the same losses within the tolerance of
the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.engine.boundary import Boundary, find_boundaries, row_elements
from siamkit.engine.cache.budget import available_bytes
from siamkit.engine.cache.store import OverflowInCache
from siamkit.engine.cutting import Cut, first_exact_cut
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.identity import describe
from siamkit.engine.kernels import Choice, choose, kernel_class
from siamkit.engine.phase import CutPhase, Execution
from siamkit.engine.phase_cache import PhaseCache
from siamkit.engine.planner import CachePlan, Costs, Work, decide, place
from siamkit.engine.settings import EngineSettings, Reports
from siamkit.engine.sources import TRAIN, CachedSource, Inputs, LiveSource
from siamkit.engine.timing import LoadedImages, PartTimes, load_first, time_parts
from siamkit.engine.trial import TOLERANCE
from siamkit.errors import ConfigError, SiamkitError
from siamkit.freezing.controller import FreezeController
from siamkit.model.trace import evaluating

_TESTED = 3
_CHECK_SECONDS = 0.3
_CHECKED = range(2, 33)
"""Images of a batch that the cut network is held against the whole one on: as many as the prefix
computes in :data:`_CHECK_SECONDS`, within these bounds."""


class Engine:
    """Decides how each phase of a run is computed.

    Args:
        controller: Applied the phase's plan to the network.
        inputs: Its inputs: :data:`TRAIN`, and those that are evaluated after each epoch.
        visits: Training images per epoch; one that comes twice counts twice.
        settings: What the engine may do.
        reports: Callbacks of long work.
        identity: What else decides the prefix's output, as JSON values: part of the cache's key.
    """

    def __init__(
        self,
        controller: FreezeController,
        inputs: Mapping[str, Inputs],
        visits: int,
        settings: EngineSettings,
        reports: Reports,
        identity: Mapping[str, Any],
    ) -> None:
        self.controller, self.net = controller, controller.net
        self.inputs, self.visits = inputs, visits
        self.settings, self.reports, self.identity = settings, reports, identity
        self._first: LoadedImages | None = None
        self._open: CutPhase | None = None

    def close(self) -> None:
        """Close the cache of the phase, so that others may evict it."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def enter(self, epochs: range, before: PhaseDecision | None = None) -> Execution:
        """Decide how the rest of a phase is computed. :meth:`prepare` comes before each epoch.

        Args:
            epochs: The epochs left in it.
            before: What was decided when the phase began; None if it begins now.
        """
        self.close()
        phase = self.decide(epochs, before)
        if isinstance(phase, PhaseDecision):
            return self._whole(phase, epochs)
        sources: dict[str, BatchSource]
        if phase.plan.mode == "live":
            phase.close()
            assert phase.choice is not None
            kernel = phase.choice.kernel
            sources = {name: LiveSource(part.source, kernel) for name, part in self.inputs.items()}
        else:
            self._open = phase
            sources = {name: CachedSource(part.labels) for name, part in self.inputs.items()}
        forward = partial(_guarded, phase.cut.suffix)
        return Execution(phase.decision(before), epochs, sources, forward, phase)

    def prepare(self, execution: Execution, epoch: int) -> Execution:
        """Compute the rows that an epoch reads and the cache lacks; later epochs' views wait.

        Args:
            execution: The phase's.
            epoch: The epoch.

        Returns:
            The execution; another one where the cache proved to be of no use.
        """
        phase = execution.parts
        if phase is None or phase.plan.mode == "live":
            return execution
        rest = range(epoch, execution.epochs.stop)
        try:
            reason = self._stock(execution, phase, execution.view(epoch))
        except OverflowInCache as error:
            self.reports.emit("notice", {"text": str(error)})
            again = replace(execution.decision, dtype="float32")
            return self.prepare(self.enter(rest, again), epoch)
        if reason is None:
            return execution
        self.reports.emit("notice", {"text": reason})
        short = "the cache differs from the network"
        return self.enter(rest, execution.decision.falling_back("live", short))

    def checked(self, execution: Execution, epoch: int, batch: Sequence[int]) -> Execution:
        """Hold the cut network against the whole one on a real batch, now and then.

        A forward may branch on the content of images or batches that the cut was not tried on.

        Args:
            execution: The phase's, prepared for the epoch.
            epoch: The epoch.
            batch: Indices of the images of its first batch.

        Returns:
            The execution; one of the whole network where the two differ.
        """
        phase = execution.parts
        if phase is None or not _due(epoch - execution.epochs.start):
            return execution
        count = int(_CHECK_SECONDS / max(phase.times.prefix, 1e-9))
        count = min(max(count, _CHECKED.start), _CHECKED.stop - 1)
        indices, view = list(batch[:count]), execution.view(epoch)
        images = torch.stack([self.inputs[TRAIN].example(i, view) for i in indices])
        images = images.to(self.settings.device).contiguous(memory_format=torch.channels_last)
        activations, tolerance = None, TOLERANCE
        if phase.cache is not None and phase.plan.mode == "cached" and phase.dtype.itemsize > 2:
            # Rows of full precision save running the prefix again, and are looked at as well.
            (rows,) = execution.sources[TRAIN].batches([indices], view)
            activations, tolerance = rows.inputs.to(images.device), phase.cache.tolerance
        reason = phase.cut.differs(images, activations, tolerance)
        return execution if reason is None else self.whole(execution, epoch, reason)

    def whole(self, execution: Execution, epoch: int, reason: str) -> Execution:
        """Return the execution of the whole network for the rest of a phase, and say why.

        Args:
            execution: The phase's.
            epoch: The epoch that runs or comes next.
            reason: What the cut network does differently.
        """
        self.close()
        decision = execution.decision.falling_back(
            "whole", f"the cut network is not the whole one on a training batch: {reason}"
        )
        text = (
            f"{decision.reason}; this phase runs the whole network (engine.cut=off does so always)"
        )
        self.reports.emit("notice", {"text": text})
        return self._whole(decision, range(epoch, execution.epochs.stop))

    def decide(
        self, epochs: range, before: PhaseDecision | None = None
    ) -> CutPhase | PhaseDecision:
        """Cut, measure and decide.

        Args:
            epochs: The epochs left in the phase.
            before: What was decided when the phase began; None if it begins now.

        Returns:
            The cut phase, or the decision that the whole network runs.
        """
        if before is not None and before.mode == "whole":
            return before
        if self.settings.cut == "off":
            return self._uncut("engine.cut is off")
        images = self._images().images
        boundaries = find_boundaries(self.net, self.controller.stages, self._plan)
        if before is not None:
            modules = [b.module for b in boundaries]
            start = modules.index(before.module) if before.module in modules else 0
            boundaries = boundaries[start:]
        deepest, passed_over = first_exact_cut(self.net, boundaries, images[:_TESTED])
        if deepest is None:
            none = "no part of the network is frozen from the start on"
            return self._uncut("; ".join(passed_over) or none)
        if before is not None:
            # The phase goes on where it began, so that a resumed run gives what it would have.
            return self._cut_phase(deepest, passed_over, before.views, epochs, before)
        usable = boundaries[boundaries.index(deepest.boundary) :]
        sizes = self._row_bytes(usable, images[:1])
        index, views = place(
            list(sizes.values()), self._trained(), self._held_out(), len(epochs),
            self.settings.views, self.settings.budget,
        )  # fmt: skip
        if index:
            smaller, more = first_exact_cut(self.net, list(sizes)[index:], images[:_TESTED])
            if smaller is not None:
                too_large = f"{deepest.boundary.name}: too large for engine.cache_gb at each view"
                reasons = [*passed_over, too_large, *more]
                phase = self._cut_phase(smaller, reasons, views, epochs, None)
                if phase.plan.mode == "cached":
                    return phase
                phase.close()
        # Where nothing is kept, nothing is gained by a smaller output.
        return self._cut_phase(deepest, passed_over, views, epochs, None)

    @property
    def _plan(self) -> Any:
        plan = self.controller.plan
        assert plan is not None, "FreezeController.apply comes first"
        return plan

    def _images(self) -> LoadedImages:
        if self._first is None:
            self._first = load_first(self.inputs[TRAIN], self.settings.device)
        return self._first

    def _uncut(self, reason: str) -> PhaseDecision:
        return PhaseDecision("whole", reason, views=self.settings.views)

    def _whole(self, decision: PhaseDecision, epochs: range) -> Execution:
        sources = {name: part.source for name, part in self.inputs.items()}
        return Execution(decision, epochs, sources, self.net)

    def _cut_phase(
        self,
        cut: Cut,
        passed_over: Sequence[str],
        views: int | None,
        epochs: range,
        before: PhaseDecision | None,
    ) -> CutPhase:
        first = self._images()
        times = time_parts(self.net, cut, first.images)
        kept = self._dtype(cut.boundary)
        if before is not None and before.dtype is not None:
            kept = getattr(torch, before.dtype)
        reached = sorted({e if views is None else e % views for e in epochs})
        rows = self._trained() * len(reached) + self._held_out()
        work = Work(len(epochs), self.visits, self._held_out(), rows, rows)
        cache = None
        if self._may_cache(before):
            numerics = kernel_class(self.settings.device, self.settings.precision)
            description = describe(self.controller, cut, kept, numerics)
            shape = times.activations.shape[1:]
            cache = PhaseCache(
                {**self.identity, **description}, self.inputs, cut, shape, kept, self.settings,
                self.reports,
            )  # fmt: skip
            rows, missing = cache.want(reached)
            work = replace(work, rows=rows, missing=missing)
        row_bytes = times.activations[0].numel() * kept.itemsize
        costs = Costs(first.seconds, times.prefix, times.suffix, row_bytes)
        plan = self._cache_plan(work, costs, before)
        count = work.missing if plan.mode == "cached" else work.forwards
        choice = self._choose(cut, times, count, before) if count else None
        if choice is not None:
            fastest = choice.seconds_per_image.get(choice.kernel.name, times.prefix)
            costs = replace(costs, prefix=fastest)
            if plan.mode == "cached":
                plan = self._cache_plan(work, costs, before)
        return CutPhase(
            cut, tuple(passed_over), times, kept, cache, views, work, costs, plan, choice
        )

    def _may_cache(self, before: PhaseDecision | None) -> bool:
        """Return whether caching is enabled and the folder is writable."""
        mode = before and before.mode
        if self.settings.cache == "off" or mode == "live":
            return False
        forced = self.settings.cache == "always" or mode == "cached"
        return forced or available_bytes(self.settings.root) > 0

    def _held_out(self) -> int:
        """Return how many images are evaluated after each epoch."""
        return sum(len(part) for part in self.inputs.values() if not part.trains)

    def _trained(self) -> int:
        """Return how many images an epoch reads to train, each once."""
        return sum(len(part) for part in self.inputs.values() if part.trains)

    def _dtype(self, boundary: Boundary) -> torch.dtype:
        return torch.float32 if boundary.is_features else self.settings.dtype

    def _row_bytes(self, boundaries: Sequence[Boundary], image: Tensor) -> dict[Boundary, int]:
        elements = row_elements(self.net, boundaries, image)
        sized = zip(boundaries, elements, strict=True)
        return {b: n * self._dtype(b).itemsize for b, n in sized if n is not None}

    def _cache_plan(self, work: Work, costs: Costs, before: PhaseDecision | None) -> CachePlan:
        wanted, budget = self.settings.cache, self.settings.budget
        if before is not None and before.mode == "live":
            # As it began, whatever a measurement would say now.
            plan = decide(work, costs, budget=budget, free=0, wanted="off")
            return replace(plan, reason=before.reason)
        if wanted == "auto" and before is not None and before.mode == "cached":
            wanted = "always"
        free = 0 if wanted == "off" else available_bytes(self.settings.root)
        plan = decide(work, costs, budget=budget, free=free, wanted=wanted)
        if before is not None and plan.mode == before.mode:
            return replace(plan, reason=before.reason)
        return plan

    def _choose(
        self, cut: Cut, times: PartTimes, count: int, before: PhaseDecision | None
    ) -> Choice:
        """Return the kernel for ``count`` images."""
        run = partial(
            choose,
            cut.prefix,
            self._images().images,
            count,
            precision=self.settings.precision,
            plain=(times.activations, times.prefix),
        )
        wanted = (before and before.kernel) or self.settings.kernel
        with evaluating(self.net):
            try:
                return run(wanted=wanted)
            except ConfigError as error:
                if wanted == self.settings.kernel:
                    raise
                text = f"the kernel that the phase began with cannot be used any more: {error}"
                self.reports.emit("notice", {"text": text})
                return run()

    def _stock(self, execution: Execution, phase: CutPhase, view: int) -> str | None:
        """Show the sources the rows that an epoch reads; return their fault, or None.

        Where rows are missing, they are computed first.
        """
        cache = phase.cache
        assert cache is not None
        sources = {n: s for n, s in execution.sources.items() if isinstance(s, CachedSource)}
        views = {name: view if self.inputs[name].trains else 0 for name in sources}
        views = {name: v for name, v in views.items() if not sources[name].shows(v)}
        if not views:
            return None
        while True:
            absent = cache.absent(views)
            if absent and phase.choice is None:
                phase.choice = self._choose(phase.cut, phase.times, absent, execution.decision)
            kernel = phase.choice.kernel if absent and phase.choice else None
            try:
                rows = cache.load(views, kernel, self.settings.budget)
            except LookupError:  # another process evicted them meanwhile
                continue
            break
        if absent or len(views) > 1:
            apart = cache.discrepancy(view, rows[TRAIN])
            if not apart <= cache.tolerance:
                return (
                    f"the cache in {self.settings.root} differs from the network by {apart:.1e} of "
                    f"its largest value, and {cache.tolerance:.0e} is the most: this phase runs "
                    "without it ('siamkit cache clear' empties it)"
                )
        for name, v in views.items():
            sources[name].show(v, rows[name])
        return None


class SuffixError(Exception):
    """The suffix failed on a batch; the whole network may well run on it."""


def _guarded(suffix: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    try:
        return suffix(activations)
    except (SiamkitError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SuffixError(f"{type(error).__name__}: {error}") from error


def _due(epochs: int) -> bool:
    """Tell whether a check is due so many epochs after a phase began: 0, 1, 4, 16, 64 ..."""
    return epochs == 0 or (epochs & (epochs - 1) == 0 and epochs.bit_length() % 2 == 1)
