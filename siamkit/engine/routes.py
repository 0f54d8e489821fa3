"""What the engine decides for a phase, and the way that its batches take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.engine.cutting import Cut
from siamkit.engine.kernels import Choice
from siamkit.engine.phase_cache import PhaseCache
from siamkit.engine.planner import Costs, Decision, Work
from siamkit.engine.timing import Survey

Record = Mapping[str, Any]


@dataclass
class Route:
    """How the batches of a phase become embeddings.

    Attributes:
        sources: Gives the batches of each image set.
        forward: From what a source gives to embeddings ``[N, E]``.
        views: Views an image; None for a new one every epoch.
        epochs: The epochs that it was made for.
        record: The decision and its numbers, as JSON values.
        course: What was decided; None where the whole network runs.
    """

    sources: Mapping[str, BatchSource]
    forward: Callable[[Tensor], Tensor]
    views: int | None
    epochs: range
    record: dict[str, Any]
    course: Course | None = None

    def view(self, epoch: int) -> int:
        """Return which view of its images an epoch sees."""
        return epoch if self.views is None else epoch % self.views

    @property
    def gives_features(self) -> bool:
        """Whether the sources give the backbone's features."""
        return self.course is not None and self.course.found.boundary.is_features


@dataclass
class Course:
    """What was decided for a phase.

    Attributes:
        found: Where the network is cut.
        passed_over: Why boundaries before it are not used.
        seen: What was measured there.
        dtype: The type of cached rows.
        cache: The rows that the phase would read; None where it cannot be cached.
        views: Views an image; None for a new one every epoch.
        work: What is left of the phase.
        costs: What it costs.
        decision: Cached or live.
        choice: The prefix's kernel; None as long as the prefix need not run.
    """

    found: Cut
    passed_over: tuple[str, ...]
    seen: Survey
    dtype: torch.dtype
    cache: PhaseCache | None
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
            "module": self.found.boundary.module,
            "passed_over": list(self.passed_over),
            "kernel": kernel,
            "kernels": choice.seconds_per_image if choice else {},
            "setup_seconds": choice.setup_seconds if choice else {},
            "rejected": choice.rejected if choice else {},
            "views": self.views,
            "dtype": str(self.dtype).removeprefix("torch."),
            "rows": self.work.rows,
            "missing": self.work.missing,
            "decode_seconds": self.costs.decode,
            "prefix_seconds": self.costs.prefix,
            "suffix_seconds": self.costs.suffix,
            "row_bytes": self.costs.row_bytes,
            **self.decision.to_json(),
        }

    def close(self) -> None:
        """Let the cache go."""
        if self.cache is not None:
            self.cache.close()


def whole(reason: str) -> dict[str, Any]:
    """Return the record of a phase in which the whole network runs."""
    return {"mode": "whole", "reason": reason, "boundary": None, "kernel": None}
