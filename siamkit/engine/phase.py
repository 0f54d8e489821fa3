"""The execution of a phase: from the batches of its sources to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.engine.cutting import Cut
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.kernels import Choice
from siamkit.engine.phase_cache import PhaseCache
from siamkit.engine.planner import CachePlan, Costs, Work
from siamkit.engine.timing import PartTimes


@dataclass
class Execution:
    """How the batches of a phase become embeddings.

    Attributes:
        decision: What was decided, and why.
        epochs: The epochs that it was decided for.
        sources: The source of batches of each set of inputs.
        forward: From what a source gives to the network's output ``[N, E]``.
        parts: The cut network and what it costs; None where the whole network runs.
    """

    decision: PhaseDecision
    epochs: range
    sources: Mapping[str, BatchSource]
    forward: Callable[[Tensor], Tensor]
    parts: CutPhase | None = None

    def view(self, epoch: int) -> int:
        """Return which view of its images an epoch sees."""
        views = self.decision.views
        return epoch if views is None else epoch % views

    @property
    def gives_features(self) -> bool:
        """Whether the sources give the backbone's features."""
        return self.parts is not None and self.parts.cut.boundary.is_features


@dataclass
class CutPhase:
    """A phase of a cut network.

    Attributes:
        cut: The network in its two parts.
        passed_over: Why deeper boundaries are not used.
        times: What was measured at the boundary.
        dtype: The type of cached rows.
        cache: The rows that the phase would read; None where it cannot be cached.
        views: Views per image; None for a new one every epoch.
        work: What is left of the phase.
        costs: What it costs.
        plan: Cached or live.
        choice: The prefix's kernel; None while the prefix does not have to run.
    """

    cut: Cut
    passed_over: tuple[str, ...]
    times: PartTimes
    dtype: torch.dtype
    cache: PhaseCache | None
    views: int | None
    work: Work
    costs: Costs
    plan: CachePlan
    choice: Choice | None

    def decision(self, before: PhaseDecision | None) -> PhaseDecision:
        """Return the decision and its numbers.

        Args:
            before: What was decided at the start of the phase; None if it starts now.
        """
        choice, plan = self.choice, self.plan
        # A resumed run that has all its rows would else forget how it computed them.
        kernel = choice.kernel.name if choice else None if before is None else before.kernel
        return PhaseDecision(
            mode=plan.mode,
            reason=plan.reason,
            boundary=self.cut.boundary.name,
            module=self.cut.boundary.module,
            passed_over=self.passed_over,
            kernel=kernel,
            kernels=choice.seconds_per_image if choice else {},
            setup_seconds=choice.setup_seconds if choice else {},
            rejected=choice.rejected if choice else {},
            views=self.views,
            dtype=str(self.dtype).removeprefix("torch."),
            rows=self.work.rows,
            missing=self.work.missing,
            row_bytes=self.costs.row_bytes,
            bytes=plan.bytes,
            decode_seconds=self.costs.decode,
            prefix_seconds=self.costs.prefix,
            suffix_seconds=self.costs.suffix,
            live=plan.live,
            cached=plan.cached,
        )

    def close(self) -> None:
        """Close the cache."""
        if self.cache is not None:
            self.cache.close()
