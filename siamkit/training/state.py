"""The state of a run: everything but tensors, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from siamkit.engine.decision import PhaseDecision

Metrics = dict[str, float]


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        epoch: The epoch that is running or comes next.
        epoch_step: Optimizer steps done in it.
        step: Optimizer steps done in the whole run.
        loss_sum: Sum of the losses of this epoch's steps, each weighted by its images.
        images: Images seen in this epoch.
        untrained: Held-out metrics of the backbone's own features.
        untrained_test: The same on the test set, where there is one.
        history: Held-out metrics of each finished epoch, with ``train_loss`` and ``train_*``.
        best_epoch: The epoch (from 0) with the best monitored metric, or None.
        stopped_early: Whether early stopping ended the run.
        scaler: The state of the fp16 loss scaler.
        phase_start: The epoch that the phase began with.
        decision: How the phase is computed; None before the first one.
        weights: Where the backbone's weights came from at the start.
        identity: What a resumed run must share: data fingerprint, plugin versions.
    """

    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    loss_sum: float = 0.0
    images: int = 0
    untrained: Metrics = field(default_factory=dict)
    untrained_test: Metrics = field(default_factory=dict)
    history: list[Metrics] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    phase_start: int = 0
    decision: PhaseDecision | None = None
    weights: str = ""
    identity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunState:
        """Return the state that :meth:`to_json` gave."""
        decision = values["decision"]
        decided = None if decision is None else PhaseDecision.from_json(decision)
        return cls(**{**values, "decision": decided})

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        decision = None if self.decision is None else self.decision.to_json()
        return {**asdict(self), "decision": decision}

    def is_over(self, epochs: int) -> bool:
        """Tell whether no epoch is left to train."""
        return self.stopped_early or self.epoch >= epochs


def best_epoch(history: list[Metrics], monitor: str) -> int | None:
    """Return the first epoch with the highest monitored metric."""
    if not history:
        return None
    return max(range(len(history)), key=lambda i: (history[i][monitor], -i))


def out_of_patience(history: list[Metrics], monitor: str, patience: int | None) -> bool:
    """Tell whether the last ``patience`` epochs brought no better metric."""
    best = best_epoch(history, monitor)
    return patience is not None and best is not None and len(history) - 1 - best >= patience
