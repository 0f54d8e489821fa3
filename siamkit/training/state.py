"""The state of a run: its progress and metrics, as JSON values without tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from siamkit.engine.decision import PhaseDecision
from siamkit.spelling import setting
from siamkit.words import plural

Metrics = dict[str, float]

BEFORE = -1
"""Stands for the time before the first epoch."""

_WITHOUT_LOSS = 3  # epochs in a row with a loss of zero before the run says so

_TRY = (
    f"Lower the learning rate ({setting('optimizer.lr')}), freeze more "
    f"({setting('freeze.name', 'freeze-all')}), try another loss "
    f"({setting('loss.name', 'supcon')}) "
    f"or another augmentation ({setting('data.augment.preset', 'marks')}), or train on more classes"
)

NO_LOSS = (
    f"the loss was 0 in {_WITHOUT_LOSS} epochs in a row: no pair or triplet of a batch violates "
    "the margin, so nothing changes any more. Stop here, or use a larger margin, larger batches, "
    "or a loss without a margin"
)
"""The notice for a run in which :func:`no_loss` is true."""


@dataclass
class RunState:
    """The progress and the metrics of a run.

    Attributes:
        epoch: The epoch that is running or comes next, from 0.
        epoch_step: Optimizer steps completed in this epoch.
        step: Optimizer steps completed in the whole run.
        loss_sum: Sum of the losses of this epoch's steps, each weighted by its images.
        images: Images trained on in this epoch.
        untrained: Validation metrics of the backbone's features before training, without the head.
        untrained_test: The same metrics on the test set; empty without a test set.
        history: Validation metrics of each finished epoch, with ``train_loss`` and the ``train_*``
            metrics of a sample of the training set.
        best_epoch: The epoch (from 0) with the best monitored metric; :data:`BEFORE` if the network
            was best before the first step; None if no epoch has ended.
        best_checkpoint: The name of the checkpoint of the best network, or None.
        trained_checkpoint: The name of the checkpoint that was saved after the best epoch of the
            training, or None.
        start: Validation metrics of the network before the first step; empty before it is scored.
        refit: Validation metrics of the best epoch's network with a head that was computed again;
            empty if that was not tried.
        inherited: Whether the network starts with a head that another run has trained.
        heads: If it did at first, the monitored metric before the first step, with this head and
            with one in closed form (``trained`` and ``closed form``); else empty.
        solved: Whether the head was computed in closed form, or an inherited one was chosen.
        refitted: Whether the best network is the one with the head that was computed again.
        stopped_early: Whether early stopping ended the run.
        largest_pass: The most images in a forward pass, if the memory sets a bound; else None.
        largest_scored: The most images in a forward pass of an evaluation, if the memory sets a
            bound; else None.
        threads: The number of CPU threads, which decides the order in which products are summed.
            None before the first step.
        scaler: The state of the fp16 loss scaler.
        attributes: The plain attributes of network and loss that training changed, without their
            tensors; see ``training.tensors.Attributes``.
        phase_start: The first epoch in which the same parameters train as now.
        decision: The engine's decision for the current phase; None before the first phase.
        weights: The origin of the backbone's weights, as text.
        lr_find: How the learning rate was found; None if the user gave it.
        recipe: How the recipe was chosen; None if the user gave it.
        identity: The facts that a resumed run must share: config, data and plugin versions.
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
    best_checkpoint: str | None = None
    trained_checkpoint: str | None = None
    start: Metrics = field(default_factory=dict)
    refit: Metrics = field(default_factory=dict)
    inherited: bool = False
    heads: Metrics = field(default_factory=dict)
    solved: bool = False
    refitted: bool = False
    stopped_early: bool = False
    largest_pass: int | None = None
    largest_scored: int | None = None
    threads: int | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    phase_start: int = 0
    decision: PhaseDecision | None = None
    weights: str = ""
    lr_find: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    identity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunState:
        """Return the state that :meth:`to_json` returned as JSON values."""
        decision = values["decision"]
        decided = None if decision is None else PhaseDecision.from_json(decision)
        return cls(**{**values, "decision": decided})

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        decision = None if self.decision is None else self.decision.to_json()
        return {**asdict(self), "decision": decision}

    @property
    def best(self) -> Metrics:
        """The metrics of the best network."""
        if self.refitted:
            return self.refit
        return self.start if self.best_epoch == BEFORE else self.history[self.best_epoch or 0]

    @property
    def last(self) -> Metrics:
        """The metrics after the last step."""
        return self.history[-1] if self.history else self.start

    def is_over(self, epochs: int) -> bool:
        """Return whether no epoch is left to train."""
        return self.stopped_early or self.epoch >= epochs


def best_epoch(history: Sequence[Mapping[str, float]], monitor: str) -> int | None:
    """Return the first epoch with the highest monitored metric."""
    if not history:
        return None
    return max(range(len(history)), key=lambda i: (history[i][monitor], -i))


def best_of(history: list[Metrics], start: Metrics, monitor: str) -> int | None:
    """Return the best epoch; :data:`BEFORE` if the network was better before the first step."""
    best = best_epoch(history, monitor)
    if start and (best is None or start[monitor] > history[best][monitor]):
        return BEFORE
    return best


def no_loss(history: list[Metrics]) -> bool:
    """Return whether the training loss was zero in the last few epochs."""
    last = history[-_WITHOUT_LOSS:]
    return len(last) == _WITHOUT_LOSS and not any(metrics["train_loss"] for metrics in last)


def start_text(state: RunState, monitor: str, *, computed: bool) -> str:
    """Return a notice about the network whose head was computed before the training.

    Args:
        state: The state, with the metrics of that network.
        monitor: The metric that picks the best network.
        computed: Whether the head is computed anew after each epoch, and not trained.
    """
    text = f"the head in closed form, before any training: {monitor} {state.start[monitor]:.3f}"
    return f"{text}. It is computed anew after each epoch" if computed else text


def shared_dropout_text(names: Sequence[str]) -> str:
    """Return a notice about dropout layers that parts that train share with frozen ones."""
    return (
        f"the dropout of {', '.join(names[:5])} is off: a frozen part uses the same layer, and the "
        "frozen part is a fixed function. Give each part a layer of its own"
    )


def no_gradient_text(stages: Sequence[str], steps: int) -> str:
    """Return a notice about stages that train by the plan, but got no gradient.

    Args:
        stages: The names of the stages.
        steps: The number of steps so far with the plan.
    """
    return (
        f"no gradient reached {', '.join(stages[:5])} in {plural(steps, 'step')}, so nothing there "
        "was trained, though the plan trains it: the network does not use it, detaches its output, "
        "or runs it without gradients"
    )


def ends_trained(state: Mapping[str, Any]) -> bool:
    """Return whether the head of a run's best network was trained, and not only computed.

    Args:
        state: The state in the checkpoint of this network.
    """
    if state["refitted"]:
        return False
    return bool(state.get("inherited")) if state["best_epoch"] in (None, BEFORE) else True


def heads_text(heads: Mapping[str, float], monitor: str) -> str | None:
    """Return a notice about the head that a run with an inherited head starts from.

    Args:
        heads: The metric with each head; empty for other runs.
        monitor: The metric that picks the best network.
    """
    if not heads:
        return None
    trained, closed = heads["trained"], heads["closed form"]
    verdict = "the trained head stays" if trained >= closed else "that one replaces it"
    return (
        f"before the first step, {monitor} is {trained:.3f} with the head that was trained before, "
        f"and {closed:.3f} with a head that is computed in closed form, so {verdict}"
    )


def refit_text(state: RunState, epoch: int, best: float, monitor: str) -> str:
    """Return a notice about the head that was computed again for a trained network.

    Args:
        state: The state, with the metrics of that network.
        epoch: The epoch of the network, from 0.
        best: The metric of the best network so far.
        monitor: The metric that picks the best network.
    """
    verdict = "so it is kept" if state.refitted else "so it is not used"
    return (
        f"the head was computed in closed form again, for the network of epoch {epoch + 1}: "
        f"{monitor} {state.refit[monitor]:.3f}, and {state.history[epoch][monitor]:.3f} with the "
        f"trained head. The best so far was {best:.3f}, {verdict}"
    )


def lost(state: RunState, monitor: str) -> str | None:
    """Return a notice if no epoch of the training was better than the network before it."""
    if state.best_epoch != BEFORE or not state.history:
        return None
    after = max(metrics[monitor] for metrics in state.history)
    return (
        f"the training did not help: {monitor} was {state.start[monitor]:.3f} before the first "
        f"step, and is at most {after:.3f} after an epoch, so the run keeps the network from "
        f"before the training as its best. {_TRY}"
    )


def below_baseline(untrained: Metrics, best: Metrics, monitor: str) -> str | None:
    """Return a notice if the best epoch is worse than the untrained backbone's features."""
    before, after = untrained[monitor], best[monitor]
    if after >= before:
        return None
    return (
        f"the run ended below its baseline: {monitor} is {after:.3f} after the best epoch, and "
        f"{before:.3f} with the untrained backbone's own features. {_TRY}"
    )
