"""How a phase (consecutive epochs with the same freeze plan) computes its embeddings."""

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
    """How a phase computes embeddings: its sources of batches, and the function that embeds them.

    Attributes:
        decision: The engine's decision.
        epochs: The epochs that the execution is for.
        sources: The source of batches of each set of inputs.
        forward: Maps the inputs of a source's batch to the network's output ``[N, E]``.
        parts: The cut network and its costs; None if the whole network runs.
    """

    decision: PhaseDecision
    epochs: range
    sources: Mapping[str, BatchSource]
    forward: Callable[[Tensor], Tensor]
    parts: CutPhase | None = None

    def view(self, epoch: int) -> int:
        """Return the number of the view that an epoch uses."""
        views = self.decision.views
        return epoch if views is None else epoch % views

    @property
    def gives_features(self) -> bool:
        """Whether the sources yield the backbone's features, not images or activations."""
        return self.parts is not None and self.parts.cut.boundary.is_features


@dataclass
class CutPhase:
    """A phase whose network is cut: the two parts, their measured costs, and the engine's plan.

    Attributes:
        cut: The cut network.
        rejected_boundaries: The reasons why deeper boundaries are not used.
        times: The measured times of the prefix and the suffix.
        dtype: The type of cached rows.
        cache: The cached rows of the phase; None if the phase may not be cached.
        views: Views per image; None for a new view in every epoch.
        work: The work that is left in the phase.
        costs: The measured costs.
        plan: Whether the phase is cached or live.
        choice: The kernel chosen for the prefix, with the measurements; None while the prefix
            need not run.
        decode_spread: The spread of the measured times to load an image, as a share of their
            median.
    """

    cut: Cut
    rejected_boundaries: tuple[str, ...]
    times: PartTimes
    dtype: torch.dtype
    cache: PhaseCache | None
    views: int | None
    work: Work
    costs: Costs
    plan: CachePlan
    choice: Choice | None
    decode_spread: float = 0.0

    def decision(self, before: PhaseDecision | None) -> PhaseDecision:
        """Return the decision and its numbers.

        Args:
            before: The decision at the start of the phase; None if the phase starts now.
        """
        choice, plan = self.choice, self.plan
        # A resumed run that finds all its rows keeps the name of the kernel that computed them.
        kernel = choice.kernel.name if choice else None if before is None else before.kernel
        return PhaseDecision(
            mode=plan.mode,
            reason=plan.reason,
            boundary=self.cut.boundary.name,
            module=self.cut.boundary.module,
            rejected_boundaries=self.rejected_boundaries,
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
            spread=max(self.times.spread, self.decode_spread),
        )

    def close(self) -> None:
        """Close the cache."""
        if self.cache is not None:
            self.cache.close()
