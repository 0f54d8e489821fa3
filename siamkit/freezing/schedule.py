"""The freeze schedule: turns a policy into phases, which are spans of epochs with one plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from numbers import Real
from typing import get_args

from siamkit.checks import whole_number
from siamkit.errors import ConfigError, PluginError, SiamkitError
from siamkit.guard import name_of
from siamkit.interfaces import (
    DEFAULT_MONITOR,
    HEAD,
    FreezePlan,
    FreezePolicy,
    NormMode,
    Phase,
    Progress,
    Stage,
)
from siamkit.spelling import setting

History = Sequence[Mapping[str, float]]
"""The validation metrics of each finished epoch, oldest first."""


@dataclass(frozen=True)
class FreezeSchedule:
    """A freeze policy, applied to the stages of one network and the epochs of one run.

    Results depend on the arguments alone: methods get the metrics of the finished epochs. So a
    resumed run is in the same phase as before, even in the middle of an epoch.

    Attributes:
        policy: The policy, which decides which stages train in which epoch.
        stages: The network's stages, as the policy sees them.
        epochs: The number of epochs of the run.
        monitor: The validation metric that a metric-driven policy follows; higher is better.
        name: The policy's name in messages; if empty, the name of the policy's class.

    Raises:
        ConfigError: ``policy`` is no policy, or ``epochs`` is no number of epochs.
    """

    policy: FreezePolicy
    stages: tuple[Stage, ...]
    epochs: int
    monitor: str = DEFAULT_MONITOR
    name: str = ""
    _walked: list[_Walked] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.policy, type) or not callable(getattr(self.policy, "plan", None)):
            raise ConfigError(
                "is not a siamkit.FreezePolicy", where="policy", got=self.policy,
                hint="siamkit.create_policy makes one of a registered name or a function",
            )  # fmt: skip
        object.__setattr__(self, "epochs", whole_number(self.epochs, "epochs", least=0))
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "name", self.name or type(self.policy).__name__)

    def plan_at(self, epoch: int, history: History = ()) -> FreezePlan:
        """Return the policy's plan for one epoch, checked against the stages.

        With ``norm="frozen"``, the backbone's norm parameters do not train.

        Args:
            epoch: The epoch, from 0.
            history: The metrics of the finished epochs. Those of ``epoch`` and later are ignored.

        Raises:
            PluginError: The plan names a parameter or a stage that doesn't exist, or has an invalid
                rate or norm mode; or the policy returned two plans for the same arguments.
        """
        where = name_of(self.policy, f"freeze policy {self.name!r}")
        progress = Progress(
            epoch, self.epochs, history=tuple(history[:epoch]), monitor=self.monitor
        )
        plan = self.policy.plan(self.stages, progress)
        _require_valid(plan, self.stages, where)
        if self.policy.plan(self.stages, progress) != plan:
            raise PluginError(
                f"plan returned two different plans for the same arguments, in epoch {epoch + 1}",
                where=where,
                hint="a policy must be a pure function of stages and progress: keep no state and "
                "draw no random numbers in it, or a resumed run would train other parameters",
            )
        return without_frozen_norms(plan, self.stages)

    def phases(self, history: History = ()) -> tuple[Phase, ...]:
        """Return the phases of the run. Consecutive epochs with equal plans form one phase.

        Args:
            history: The metrics of the finished epochs. The later phases of a metric-driven policy
                are a forecast from these metrics alone.
        """
        result: list[Phase] = []
        for epoch in range(self.epochs):
            plan = self.plan_at(epoch, history)
            if result and result[-1].plan == plan:
                result[-1] = replace(result[-1], end_epoch=epoch + 1)
            else:
                result.append(Phase(epoch, epoch + 1, plan))
        return tuple(result)

    def span_at(self, epoch: int, history: History = ()) -> range:
        """Return the epochs around ``epoch`` in which the same parameters train, in the same mode.

        Rates may differ from epoch to epoch, so a span may hold several phases. It is a forecast
        from the metrics of the finished epochs.

        Raises:
            ConfigError: The run has no such epoch.
        """
        if not 0 <= epoch < self.epochs:
            raise ConfigError(
                "no such epoch", where="epoch", got=epoch,
                allowed=f"0 to {self.epochs - 1}" if self.epochs else "none: the run has no epochs",
            )  # fmt: skip
        return next(span for span in spans(self.phases(history)) if epoch in span)

    def unfrozen_at(self, epoch: int, history: History = ()) -> dict[str, int]:
        """Map each stage that trains in ``epoch`` to the epoch in which it was last unfrozen.

        Stages that have trained in all epochs since the first are left out.
        """
        # A run asks after each of its epochs, so the epochs of earlier calls are kept. The first is
        # planned again all the same: the guard then notices a policy whose state grows.
        self.plan_at(0, history)
        walked = self._walked
        # The plan of an epoch depends on the metrics before it.
        given = [None, *map(dict, history[:epoch])] + [None] * (epoch - len(history))
        known = 0
        while known < min(len(walked), len(given)) and walked[known].metrics == given[known]:
            known += 1
        del walked[known:]
        for past in range(known, epoch + 1):
            plan = self.plan_at(past, history)
            now = {s.name for s in self.stages if not plan.trainable.isdisjoint(s.parameters)}
            before = walked[-1] if walked else _Walked(None, now, {})
            unfrozen = {name: at for name, at in before.unfrozen.items() if name in now}
            unfrozen |= dict.fromkeys(sorted(now - before.trained), past)
            walked.append(_Walked(given[past], now, unfrozen))
        return dict(walked[epoch].unfrozen)

    def require_trainable(self, phases: Sequence[Phase]) -> None:
        """Check that each phase trains something.

        Raises:
            ConfigError: A phase trains no parameter of the network.
        """
        for phase in phases:
            if not phase.plan.trainable:
                names = ", ".join(stage.name for stage in self.stages)
                head = any(stage.name == HEAD for stage in self.stages)
                raise ConfigError(
                    f"nothing would train in epochs {phase.start_epoch + 1}-{phase.end_epoch}: "
                    f"policy {self.name!r} freezes every stage ({names})"
                    + ("" if head else " and the head has no parameters"),
                    hint=f"use a head with parameters ({setting('head.name', 'mlp')}) or a policy "
                    "that trains a stage",
                )


def spans(phases: Iterable[Phase]) -> Iterator[range]:
    """Yield the spans of epochs in which the same parameters train, in the same mode.

    Args:
        phases: Consecutive phases, which may differ in rates alone.
    """
    for _, alike in groupby(phases, lambda phase: (phase.plan.trainable, phase.plan.norm)):
        several = tuple(alike)
        yield range(several[0].start_epoch, several[-1].end_epoch)


@dataclass(frozen=True)
class _Walked:
    """One epoch on the way to a later one; see :meth:`FreezeSchedule.unfrozen_at`.

    Attributes:
        metrics: The metrics of the epoch before; None if it isn't finished, or there is none.
        trained: The names of the stages that train.
        unfrozen: The epoch in which each of them was last unfrozen.
    """

    metrics: dict[str, float] | None
    trained: set[str]
    unfrozen: dict[str, int]


def _require_valid(plan: object, stages: Sequence[Stage], where: str) -> None:
    plan = require_plan(plan, stages, where, PluginError)
    known = {name for stage in stages for name in stage.parameters}
    if unknown := sorted(plan.trainable - known, key=str):
        raise PluginError("plan trains a parameter that no stage has", where=where, got=unknown[0])


def require_plan(
    plan: object, stages: Sequence[Stage], where: str, error: type[SiamkitError]
) -> FreezePlan:
    """Check the rates and the norm mode of a plan, and return the plan.

    Args:
        plan: The plan.
        stages: The stages that it is for.
        where: Where the plan comes from, for the error.
        error: The type of the error.

    Raises:
        SiamkitError: The plan is none, or a rate or the norm mode is invalid.
    """
    if not isinstance(plan, FreezePlan):
        raise error("plan must return a FreezePlan" if error is PluginError else
                    "must be a FreezePlan", where=where, got=type(plan))  # fmt: skip
    if unknown := sorted(set(plan.lr_mult) - {s.name for s in stages}, key=str):
        raise error(
            "plan has a rate for an unknown stage", where=where, got=unknown[0],
            allowed=", ".join(stage.name for stage in stages),
        )  # fmt: skip
    for name, mult in plan.lr_mult.items():
        if not isinstance(mult, Real) or not 0 <= mult < float("inf"):
            raise error(
                f"rate multiplier of {name!r} must be finite and >= 0", where=where, got=mult
            )
    if plan.norm not in get_args(NormMode):
        raise error(
            "plan has an unknown norm mode", where=where, got=plan.norm,
            allowed=", ".join(get_args(NormMode)),
        )  # fmt: skip
    return plan


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage under a plan.

    Attributes:
        name: The stage's name.
        parameters: The number of values of the stage's parameters.
        trainable: The number of these values that train.
        norm: The mode of the stage's norm layers: ``frozen`` if none of their parameters trains,
            ``-`` if there are no norm layers.
        lr_mult: The rate multiplier; 0 if nothing in the stage trains.
        needs_backward: Whether gradients flow into or through the stage.
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
    """Return the status of each stage under ``plan``.

    Args:
        stages: The stages.
        plan: The plan.
        sizes: The number of values of each parameter, by name.
    """
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


def without_frozen_norms(plan: FreezePlan, stages: Iterable[Stage]) -> FreezePlan:
    """Return the plan, with ``norm="frozen"`` without the norm parameters of the backbone."""
    if plan.norm != "frozen":
        return plan
    norms = frozenset(n for stage in stages if stage.name != HEAD for n in stage.norms)
    return replace(plan, trainable=plan.trainable - norms)


def norm_of(stage: Stage, plan: FreezePlan) -> str:
    """Return the mode of the norm layers of ``stage`` under ``plan``; see :class:`StageStatus`."""
    if not stage.norms:
        return "-"
    if not stage.norms & plan.trainable:
        return "frozen"
    return norm_mode(stage, plan)


def norm_mode(stage: Stage, plan: FreezePlan) -> NormMode:
    """Return the mode of those norm layers of ``stage`` that train.

    It is the plan's, except in the head: the head is new, so its statistics must be trained.
    """
    return "train" if stage.name == HEAD else plan.norm
