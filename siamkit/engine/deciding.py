"""The decision about each phase: where the network is cut, and whether the prefix's output is kept.

The decider finds the deepest exact cut of the network under the phase's plan, measures both parts,
and asks the planner (:mod:`siamkit.engine.planner`) whether the prefix runs for every batch or once
per image and view. A resumed phase keeps its earlier decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from siamkit.engine.boundary import Boundary, find_boundaries, row_elements
from siamkit.engine.cache.budget import available_bytes
from siamkit.engine.cutting import NOTHING_FROZEN, Cut, all_alike, first_exact_cut
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.identity import describe, describe_speed
from siamkit.engine.kernels import Choice, Memory, choose, kernel_class
from siamkit.engine.phase import CutPhase
from siamkit.engine.phase_cache import PhaseCache
from siamkit.engine.planner import CachePlan, Costs, Work, decide, place
from siamkit.engine.settings import EngineSettings, Reports
from siamkit.engine.sources import TRAIN, Inputs
from siamkit.engine.timing import LoadedImages, PartTimes, first_run, load_first, time_parts
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.model.device import laid_out_for
from siamkit.model.trace import evaluating

_TESTED = 3
"""Images that a cut is tried on."""


class Decider:
    """Decides how each phase of a run is computed.

    Args:
        controller: The controller that applied the phase's plan to the network.
        inputs: The sets of inputs by name: those that the run trains on (:data:`TRAIN` among them),
            and those that are evaluated after each epoch.
        late: The sets that are evaluated seldom.
        visits: Training images per epoch; an image that comes twice counts twice.
        settings: Settings of the engine.
        reports: Callbacks during long work.
        identity: Further facts that determine the prefix's output, as JSON values. They are part
            of the cache's key.
    """

    def __init__(
        self,
        controller: FreezeController,
        inputs: Mapping[str, Inputs],
        late: Mapping[str, Inputs],
        visits: int,
        settings: EngineSettings,
        reports: Reports,
        identity: Mapping[str, Any],
    ) -> None:
        self.controller, self.net = controller, controller.net
        self.inputs, self.late, self.visits = inputs, late, visits
        self.settings, self.reports, self.identity = settings, reports, identity
        self._first: LoadedImages | None = None

    def decide(
        self, epochs: range, before: PhaseDecision | None = None
    ) -> CutPhase | PhaseDecision:
        """Cut the network, measure both parts, and decide how the rest of a phase is computed.

        Args:
            epochs: The epochs left in the phase.
            before: The decision at the start of the phase; None if the phase starts now.

        Returns:
            The cut phase, or the decision to run the whole network.
        """
        if before is not None and before.mode == "whole":
            return before
        if self.settings.cut == "off":
            return self._uncut("engine.cut is off")
        images = self._images().images
        tried = laid_out_for(self.net, _different(images[:_TESTED]))
        boundaries = find_boundaries(self.net, self.controller.stages, self._plan)
        if before is not None:
            modules = [b.module for b in boundaries]
            start = modules.index(before.module) if before.module in modules else 0
            boundaries = boundaries[start:]
        deepest, rejected_boundaries = first_exact_cut(self.net, boundaries, tried)
        if deepest is None:
            return self._uncut("; ".join(rejected_boundaries) or NOTHING_FROZEN)
        if before is not None:
            # A phase keeps its boundary, so that a resumed run gives the same results.
            return self._cut_phase(deepest, rejected_boundaries, before.views, epochs, before)
        usable = boundaries[boundaries.index(deepest.boundary) :]
        sizes = self._row_bytes(usable, images[:1])
        index, views = place(
            list(sizes.values()), self._trained(), self._held_out(), len(epochs),
            self.settings.views, self.settings.budget,
        )  # fmt: skip
        if index:
            smaller, more = first_exact_cut(self.net, list(sizes)[index:], tried)
            if smaller is not None:
                too_large = f"{deepest.boundary.name}: its cache would exceed engine.cache_gb"
                reasons = [*rejected_boundaries, too_large, *more]
                phase = self._cut_phase(smaller, reasons, views, epochs, None)
                if phase.plan.mode == "cached":
                    return phase
                phase.close()
        # Without a cache, a smaller output has no advantage.
        return self._cut_phase(deepest, rejected_boundaries, views, epochs, None)

    def _cut_phase(
        self,
        cut: Cut,
        rejected_boundaries: Sequence[str],
        views: int | None,
        epochs: range,
        before: PhaseDecision | None,
    ) -> CutPhase:
        loaded = self._images()
        first = first_run(cut, loaded.images)
        kept = self._dtype(cut.boundary)
        if before is not None and before.dtype is not None:
            kept = getattr(torch, before.dtype)
        reached = sorted({e if views is None else e % views for e in epochs})
        rows = self._trained() * len(reached) + self._held_out()
        work = Work(len(epochs), self.visits, self._held_out(), rows, rows)
        cache = None
        if self._may_cache(before):
            description = self._description(cut, kept)
            shape = first.activations.shape[1:]
            cache = PhaseCache(
                {**self.identity, **description}, {**self.inputs, **self.late}, cut, shape, kept,
                self.settings, self.reports,
            )  # fmt: skip
            rows, missing = cache.want(self.inputs, reached)
            work = replace(work, rows=rows, missing=missing)
        # The times decide nothing if all rows are there.
        precisely = cache is None or work.missing > 0
        times = time_parts(self.net, cut, loaded.images, first, precisely=precisely)
        row_bytes = first.activations[0].numel() * kept.itemsize
        costs = Costs(loaded.seconds, times.prefix, times.suffix, row_bytes)
        plan = self._cache_plan(work, costs, before)
        count = work.missing if plan.mode == "cached" else work.forwards
        choice = self.choose(cut, times, count, before) if count else None
        if choice is not None:
            fastest = choice.seconds_per_image.get(choice.kernel.name, times.prefix)
            costs = replace(costs, prefix=fastest)
            if plan.mode == "cached":
                plan = self._cache_plan(work, costs, before)
        return CutPhase(
            cut,
            tuple(rejected_boundaries),
            times,
            kept,
            cache,
            views,
            work,
            costs,
            plan,
            choice,
            loaded.spread,
        )

    def _may_cache(self, before: PhaseDecision | None) -> bool:
        """Return whether caching is enabled and the folder is writable."""
        mode = before and before.mode
        if self.settings.cache == "off" or mode == "live":
            return False
        forced = self.settings.cache == "always" or mode == "cached"
        return forced or bool(available_bytes(self.settings.root))

    def _dtype(self, boundary: Boundary) -> torch.dtype:
        return torch.float32 if boundary.is_features else self.settings.dtype

    def _row_bytes(self, boundaries: Sequence[Boundary], image: Tensor) -> dict[Boundary, int]:
        elements = row_elements(self.net, boundaries, image)
        sized = zip(boundaries, elements, strict=True)
        return {b: n * self._dtype(b).itemsize for b, n in sized if n is not None}

    def _cache_plan(self, work: Work, costs: Costs, before: PhaseDecision | None) -> CachePlan:
        wanted, budget = self.settings.cache, self.settings.budget
        if before is not None and before.mode == "live":
            # A phase keeps its mode, whatever the measurements are now.
            plan = decide(work, costs, budget=budget, free=0, wanted="off")
            return replace(plan, reason=before.reason)
        if wanted == "auto" and before is not None and before.mode == "cached":
            wanted = "always"
        free = 0 if wanted == "off" else available_bytes(self.settings.root)
        plan = decide(work, costs, budget=budget, free=free, wanted=wanted)
        if before is not None and plan.mode == before.mode:
            return replace(plan, reason=before.reason)
        return plan

    def choose(
        self, cut: Cut, times: PartTimes, count: int, before: PhaseDecision | None
    ) -> Choice:
        """Return the kernel for ``count`` images of the prefix.

        Args:
            cut: The cut network.
            times: The measured times of its parts.
            count: The number of images.
            before: The decision at the start of the phase; None if the phase starts now.

        Raises:
            ConfigError: The kernel that the settings name cannot run.
        """
        run = partial(
            choose,
            cut.prefix,
            self._images().images,
            count,
            precision=self.settings.precision,
            plain=(times.activations, times.prefix),
            memory=self._memory(cut),
        )
        wanted = (before and before.kernel) or self.settings.kernel
        with evaluating(self.net):
            try:
                return run(wanted=wanted)
            except ConfigError as error:
                if wanted == self.settings.kernel:
                    raise
                text = f"the kernel that the phase started with is replaced by another: {error}"
                self.reports.emit("notice", {"text": text})
                return run()

    def _memory(self, cut: Cut) -> Memory | None:
        """Return where the measurements of the prefix's kernels are kept, if anything may be."""
        if self.settings.cache == "off":
            return None
        facts = describe_speed(self._description(cut, torch.float32), self._images().images)
        return Memory(self.settings.root, facts)

    def _description(self, cut: Cut, dtype: torch.dtype) -> dict[str, Any]:
        numerics = kernel_class(self.settings.device, self.settings.precision)
        return describe(self.controller, cut, dtype, numerics)

    @property
    def _plan(self) -> Any:
        plan = self.controller.plan
        assert plan is not None, "FreezeController.apply comes first"
        return plan

    def _images(self) -> LoadedImages:
        if self._first is None:
            self._first = load_first(self.inputs[TRAIN], self.net)
        return self._first

    def _uncut(self, reason: str) -> PhaseDecision:
        return PhaseDecision("whole", reason, views=self.settings.views)

    def _held_out(self) -> int:
        """Return the number of images that are evaluated after each epoch."""
        return sum(len(part) for part in self.inputs.values() if not part.trains)

    def _trained(self) -> int:
        """Return the number of different images that an epoch trains on."""
        return sum(len(part) for part in self.inputs.values() if part.trains)


def _different(images: Tensor) -> Tensor:
    """Return images to try a cut on: ``images``; if all are equal, the first and random ones."""
    if not all_alike(images):
        return images
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_TESTED - 1, *images.shape[1:], generator=generator)
    return torch.cat([images[:1], noise.to(images)])
