"""From a policy to phases: spans of epochs with one plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import get_args

from siamkit.errors import ConfigError, PluginError
from siamkit.guard import name_of
from siamkit.interfaces import (
    HEAD,
    FreezePlan,
    FreezePolicy,
    NormMode,
    Phase,
    Progress,
    Stage,
)


def plan_at(
    policy: FreezePolicy,
    stages: Sequence[Stage],
    epoch: int,
    epochs: int,
    history: Sequence[Mapping[str, float]] = (),
    monitor: str = "recall@1",
) -> FreezePlan:
    """Return the policy's plan for one epoch, checked against the stages.

    It depends on the epoch and on what came before it, never on steps within it, so a run that
    resumes in mid-epoch is in the phase it left. ``norm="frozen"`` takes the backbone's norm
    parameters out of what trains.

    Raises:
        PluginError: The plan names a parameter or a stage that doesn't exist, or a bad rate.
    """
    past = tuple(history[:epoch])
    plan = policy.plan(stages, Progress(epoch, epochs, history=past, monitor=monitor))
    where = name_of(policy, "freeze policy")
    if not isinstance(plan, FreezePlan):
        raise PluginError("plan must return a FreezePlan", where=where, got=plan)
    known = {name for stage in stages for name in stage.parameters}
    if unknown := sorted(plan.trainable - known, key=str):
        raise PluginError("plan trains a parameter that no stage has", where=where, got=unknown[0])
    if unknown := sorted(set(plan.lr_mult) - {s.name for s in stages}, key=str):
        raise PluginError("plan has a rate for an unknown stage", where=where, got=unknown[0])
    for name, mult in plan.lr_mult.items():
        if not isinstance(mult, Real) or not 0 <= mult < float("inf"):
            raise PluginError(f"rate multiplier of {name!r} must be finite and >= 0", where=where,
                              got=mult)  # fmt: skip
    if plan.norm not in get_args(NormMode):
        raise PluginError("plan has an unknown norm mode", where=where, got=plan.norm,
                          allowed=", ".join(get_args(NormMode)))  # fmt: skip
    if plan.norm != "frozen":
        return plan
    norms = frozenset(n for stage in stages if stage.name != HEAD for n in stage.norms)
    return replace(plan, trainable=plan.trainable - norms)


def phases(
    policy: FreezePolicy,
    stages: Sequence[Stage],
    epochs: int,
    history: Sequence[Mapping[str, float]] = (),
    monitor: str = "recall@1",
) -> tuple[Phase, ...]:
    """Return the phases of a run: consecutive epochs with equal plans, merged.

    Args:
        policy: The freeze policy.
        stages: The network's stages.
        epochs: Epochs in the run.
        history: Metrics of the epochs that are over. A metric-driven policy is forecast from them
            alone, as if no further epoch brought news.
        monitor: The metric that decides.
    """
    result: list[Phase] = []
    for epoch in range(epochs):
        plan = plan_at(policy, stages, epoch, epochs, history, monitor)
        if result and result[-1].plan == plan:
            result[-1] = replace(result[-1], end_epoch=epoch + 1)
        else:
            result.append(Phase(epoch, epoch + 1, plan))
    return tuple(result)


@dataclass(frozen=True)
class StageStatus:
    """What a plan makes of one stage.

    Attributes:
        name: The stage.
        parameters: Parameters (scalars) in it.
        trainable: Parameters that train.
        norm: How its norm layers behave; ``frozen`` in a frozen stage, ``-`` where it has none.
        lr_mult: Rate multiplier; 0 where nothing trains.
        needs_backward: Whether gradients flow into or through it.
    """

    name: str
    parameters: int
    trainable: int
    norm: str
    lr_mult: float
    needs_backward: bool


def status(
    stages: Sequence[Stage], plan: FreezePlan, sizes: Mapping[str, int]
) -> tuple[StageStatus, ...]:
    """Return what ``plan`` makes of each stage; ``sizes`` has the elements of each parameter."""
    rows: list[StageStatus] = []
    backward = False
    for stage in stages:
        trainable = sum(sizes[n] for n in stage.parameters if n in plan.trainable)
        backward = backward or trainable > 0
        rows.append(
            StageStatus(
                stage.name,
                sum(sizes[n] for n in stage.parameters),
                trainable,
                norm_of(stage, plan),
                plan.lr_mult.get(stage.name, 1.0) if trainable else 0.0,
                backward,
            )
        )
    return tuple(rows)


def norm_of(stage: Stage, plan: FreezePlan) -> str:
    """Return how the norm layers of ``stage`` behave under ``plan``."""
    if not stage.norms:
        return "-"
    if not stage.norms & plan.trainable:
        return "frozen"
    return norm_mode(stage, plan)


def norm_mode(stage: Stage, plan: FreezePlan) -> NormMode:
    """Return the mode of the norm layers that train in ``stage``.

    The head is new: its statistics mean nothing before they are trained.
    """
    return "train" if stage.name == HEAD else plan.norm


def require_trainable(found: Sequence[Phase], stages: Sequence[Stage], policy: str) -> None:
    """Refuse a run with a phase in which nothing trains.

    Args:
        found: The phases of the run.
        stages: The network's stages.
        policy: The policy's name, for the message.

    Raises:
        ConfigError: In some phase no parameter of the network is trainable.
    """
    for phase in found:
        if not phase.plan.trainable:
            names = ", ".join(stage.name for stage in stages)
            raise ConfigError(
                f"nothing would train in epochs {phase.start_epoch + 1}-{phase.end_epoch}: "
                f"policy {policy!r} freezes every stage ({names}) and the head has no "
                "parameters",
                hint="use a head with parameters ('--head mlp') or a policy that trains some stage",
            )
