"""How each phase of a run is computed: the whole network, or only what comes after the boundary.

At the start of a phase the engine cuts the network at the boundary, tests the cut, measures, and
decides (:mod:`siamkit.freezing.planner`) whether the frozen prefix runs for every batch or once per
image and view. Whatever it decides, the same batches give the same losses within the tolerance of
the arithmetic. The decision is part of the run's state, so a resumed run goes on as it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siamkit.errors import ConfigError, SiamkitError
from siamkit.freezing.boundary import find_boundaries
from siamkit.freezing.cache.budget import free_bytes
from siamkit.freezing.cache.layout import default_root
from siamkit.freezing.cache.store import OverflowInCache
from siamkit.freezing.kernels import Choice, KernelError, choose
from siamkit.freezing.planner import WORTHWHILE, Costs, Decision, Work, decide, views_for
from siamkit.freezing.selftest import Cut, cut
from siamkit.interfaces import FreezePlan
from siamkit.model.trace import evaluating
from siamkit.training.build import Setup
from siamkit.training.caching import PhaseCache
from siamkit.training.events import Emit
from siamkit.training.loading import TEST, TRAIN, LoadedSet
from siamkit.training.sources import BatchSource, LiveSource

_MEASURED = 8
_TESTED = 2
_GB = 1_000_000_000


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
        self.digests: dict[Path, bytes] = {}
        self._decode = 0.0
        self._overflows = False

    def enter(self, plan: FreezePlan, epochs: range, record: Mapping[str, Any]) -> Route:
        """Return the route for what is left of a phase.

        Args:
            plan: The plan that was applied.
            epochs: The epochs left in it.
            record: What was decided when the phase began; empty if it begins now.
        """
        net = self.setup.net
        images = self._some_images()
        found, passed_over = cut(
            net, find_boundaries(net, self.setup.stages, plan), images[:_TESTED]
        )
        if found is None:
            return self._whole(passed_over)
        budget = int(self.config.cache_gb * _GB)
        activations, seconds = self._timed(found, images)
        dtype = self._dtype(found)
        row_bytes = activations[0].numel() * dtype.itemsize
        train = self.sets[TRAIN]
        views = views_for(self.setup.config.data.views, len(train.images), row_bytes, budget)
        cache = PhaseCache(
            self.setup, self.sets, found, activations, dtype, self.root, self.digests
        )
        cache.want(sorted({e if views is None else e % views for e in epochs}))
        work = Work(
            len(epochs),
            self.visits,
            sum(len(s.images) for name, s in self.sets.items() if name not in (TRAIN, TEST)),
            cache.rows,
            cache.rows if self.config.cache == "off" else cache.missing(),
        )
        costs = Costs(self._decode, seconds, self._suffix_seconds(found, activations), row_bytes)
        decision = self._decide(work, costs, budget, record)
        count = work.missing if decision.mode == "cached" else work.forwards
        choice = self._choose(found, images, count, seconds, record)
        if choice is not None:
            fastest = choice.seconds_per_image.get(choice.kernel.name, seconds)
            costs = Costs(costs.decode, fastest, costs.suffix, row_bytes)
            if decision.mode == "cached":
                decision = self._decide(work, costs, budget, record)
        try:
            route = self._route(found, cache, decision, choice, views, budget)
        except OverflowInCache as error:
            self.emit("notice", {"text": str(error)})
            self._overflows = True
            return self.enter(plan, epochs, record)
        route.record = self._record(found, passed_over, decision, choice, route, work, costs)
        return route

    # --- measuring -------------------------------------------------------------------------

    def _some_images(self) -> Tensor:
        """Return the first training images; times how long loading one takes."""
        train = self.sets[TRAIN]
        started = time.perf_counter()
        rows = [train.dataset[i, 0] for i in range(min(_MEASURED, len(train.images)))]
        self._decode = (time.perf_counter() - started) / len(rows)
        images = torch.stack(rows).to(self.setup.device)
        return images.contiguous(memory_format=torch.channels_last)

    def _timed(self, found: Cut, images: Tensor) -> tuple[Tensor, float]:
        started = time.perf_counter()
        with torch.no_grad():
            activations = found.prefix(images)
        return activations, (time.perf_counter() - started) / len(images)

    def _suffix_seconds(self, found: Cut, activations: Tensor) -> float:
        """Return what a training step costs an image after the boundary."""
        net = self.setup.net
        buffers = {name: b.clone() for name, b in net.named_buffers()}
        training = net.training
        net.train()
        started = time.perf_counter()
        try:
            with torch.random.fork_rng(), torch.enable_grad():
                found.suffix(activations).sum().backward()
        finally:
            net.train(training)
            net.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, buffer in net.named_buffers():
                    buffer.copy_(buffers[name])
        return (time.perf_counter() - started) / len(activations)

    # --- deciding --------------------------------------------------------------------------

    def _dtype(self, found: Cut) -> torch.dtype:
        exact = found.boundary.is_features or self._overflows
        name = "float32" if exact else self.config.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def _decide(self, work: Work, costs: Costs, budget: int, record: Mapping[str, Any]) -> Decision:
        wanted = self.config.cache
        if wanted == "auto" and record:
            # The phase goes on as it began, so that a resumed run gives what it would have given.
            wanted = "always" if record["mode"] == "cached" else "off"
        free = free_bytes(self.root)
        return decide(work, costs, budget=budget, free=free, wanted=wanted)

    def _choose(
        self, found: Cut, images: Tensor, count: int, seconds: float, record: Mapping[str, Any]
    ) -> Choice | None:
        """Return the kernel for ``count`` images; None where there are none."""
        if not count:
            return None
        wanted = str(record.get("kernel") or self.config.prefix)
        if wanted == "auto" and count * seconds < WORTHWHILE:
            wanted = "eager"  # over before anything else is built
        precision = self.setup.config.train.precision
        with evaluating(self.setup.net):
            try:
                return choose(found.prefix, images, count, wanted=wanted, precision=precision)
            except (ConfigError, KernelError):
                if not record:
                    raise
                # The run goes on where that kernel is not installed.
                return choose(found.prefix, images, count, precision=precision)

    # --- the route -------------------------------------------------------------------------

    def _whole(self, passed_over: list[str]) -> Route:
        reason = "; ".join(passed_over) or "no part of the network is frozen from the start on"
        record = {"mode": "whole", "reason": reason, "boundary": None, "kernel": None}
        views = self.setup.config.data.views
        sources = {name: part.loader for name, part in self.sets.items()}
        return Route(sources, self.setup.net.forward_single, views, None, record)

    def _route(
        self,
        found: Cut,
        cache: PhaseCache,
        decision: Decision,
        choice: Choice | None,
        views: int | None,
        budget: int,
    ) -> Route:
        if decision.mode == "cached":
            cache.fill(choice.kernel if choice else None, budget, self.emit, self.check)
            apart = cache.discrepancy(found.prefix, self.setup.device)
            if not apart <= cache.tolerance:
                raise SiamkitError(
                    f"the cache differs from the network by {apart:.1e} of its largest value",
                    where=str(self.root),
                    allowed=f"at most {cache.tolerance:.0e}",
                    hint="'siamkit cache clear' empties it; '--cache off' does without",
                )
            return Route(cache.sources(), found.suffix, views, found)
        assert choice is not None
        sources = {n: LiveSource(part.loader, choice.kernel) for n, part in self.sets.items()}
        return Route(sources, found.suffix, views, found)

    def _record(
        self,
        found: Cut,
        passed_over: list[str],
        decision: Decision,
        choice: Choice | None,
        route: Route,
        work: Work,
        costs: Costs,
    ) -> dict[str, Any]:
        return {
            "boundary": found.boundary.name,
            "passed_over": passed_over,
            "kernel": choice.kernel.name if choice else None,
            "kernels": choice.seconds_per_image if choice else {},
            "views": route.views,
            "rows": work.rows,
            "missing": work.missing,
            "decode_seconds": costs.decode,
            "prefix_seconds": costs.prefix,
            "suffix_seconds": costs.suffix,
            "row_bytes": costs.row_bytes,
            **decision.to_json(),
        }
