"""The built-in freeze policies: pure functions from progress to a plan.

If the run's ``backbone.granularity`` is ``block``, the stages that a policy gets and counts are
blocks. The head trains in every epoch at the full rate. A policy that begins with the head alone
skips that phase in a network without a head, since nothing would train in that phase. Plans never
depend on the *number* of epochs, so a longer run begins with the same phases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field

from siamkit.builtins.patterns import matching, require_compilable
from siamkit.builtins.plateau import plateaus
from siamkit.errors import ConfigError
from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import HEAD, FreezePlan, FreezePolicy, NormMode, Options, Progress, Stage
from siamkit.spelling import command, setting

_SHOWN = 8


# --- options -------------------------------------------------------------------------------------


class NoPolicyOptions(Options):
    """No options."""


class BackboneRate(Options):
    """The options of every policy that trains backbone stages."""

    lr_mult: float = Field(
        0.1,
        gt=0,
        le=100,
        description="Learning rate of the backbone stages, as a multiple of the head's rate.",
    )
    norm: NormMode = Field(
        "affine",
        description="Norm layers in stages that train. frozen: nothing changes. affine: scale and "
        "shift train, the running statistics do not change. train: both change.",
    )


class LastStages(BackboneRate):
    """The last n stages."""

    n: int = Field(
        2, ge=1, description="Number of last stages that train; all stages if there are fewer."
    )


class UnfreezeBlocksOptions(LastStages):
    """Options of ``unfreeze-blocks``."""

    names: tuple[str, ...] = Field(
        (), description="Names of the stages or blocks to train, instead of the last n stages."
    )


class StagesOptions(LastStages):
    """Options of ``stages``."""

    warmup: int = Field(
        2,
        ge=0,
        description="Epochs at the start in which only the head trains; none if there is no head.",
    )


class DecayedRate(BackboneRate):
    """A rate that falls from stage to stage, towards the input."""

    decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each stage's rate is this share of the rate of the stage after it. The last "
        "stage's multiplier is lr_mult.",
    )


class GradualOptions(DecayedRate):
    """Options of ``gradual-unfreeze``."""

    direction: Literal["top", "bottom"] = Field(
        "top", description="Start with the last stage (top) or with the first stage (bottom)."
    )
    trigger: Literal["epoch", "plateau"] = Field(
        "epoch",
        description="Unfreeze the next stage every few epochs (epoch), or when the metric stops "
        "improving (plateau).",
    )
    every: int = Field(
        1, ge=1, description="With trigger epoch: epochs from one unfreezing to the next."
    )
    patience: int = Field(
        2, ge=1, description="Epochs without improvement that count as a plateau."
    )
    min_delta: float = Field(
        0.0, ge=0, description="Ignore improvements up to this size, in units of the metric."
    )
    head_first: bool = Field(True, description="Begin with the head alone, if there is a head.")
    window: int | None = Field(
        None,
        ge=1,
        description="Number of most recently unfrozen stages that train; earlier ones are frozen "
        "again. null: all unfrozen stages train.",
    )


class LpFtOptions(DecayedRate):
    """Options of ``lp-ft``."""

    probe: int = Field(
        3,
        ge=1,
        description="Epochs at the start in which only the head trains; none if there is no head.",
    )


class SurgicalOptions(BackboneRate):
    """Options of ``surgical``."""

    names: tuple[str, ...] = Field(
        (), description="Names of the stages or blocks to train; empty: the first stage."
    )


class FewOptions(Options):
    """Options of the policies that train a few parameters throughout the backbone."""

    lr_mult: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Learning rate of the backbone's trainable parameters, as a multiple of the "
        "head's rate.",
    )
    norm: Literal["affine", "train"] = Field(
        "affine",
        description="Running statistics of the norm layers that train. affine: keep them. train: "
        "update them.",
    )


class RegexOptions(BackboneRate):
    """Options of ``regex``."""

    patterns: tuple[Annotated[str, AfterValidator(require_compilable)], ...] = Field(
        ...,
        min_length=1,
        description="Regular expressions that are searched for in the parameter names. Every "
        "matching parameter trains, and so does the head.",
    )


# --- policies ------------------------------------------------------------------------------------

OptionsT = TypeVar("OptionsT", bound=Options)


class _Policy(FreezePolicy, Generic[OptionsT]):
    def __init__(self, options: OptionsT) -> None:
        self.options = options


class FreezeAll(_Policy[NoPolicyOptions]):
    """Trains only the head; the whole backbone is frozen."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        return FreezePlan.of(stages, [])


class UnfreezeBlocks(_Policy[UnfreezeBlocksOptions]):
    """Trains the last n stages, or the named stages or blocks, from the start."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        names = self.options.names or _last(stages, self.options.n)
        return _plan(stages, names, self.options)


class Stages(_Policy[StagesOptions]):
    """Trains the head alone for some epochs, then also the last n stages: the classic two steps."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan for the epoch at ``progress.epoch``."""
        warming = progress.epoch < self.options.warmup and _has_head(stages)
        return _plan(stages, [] if warming else _last(stages, self.options.n), self.options)


class GradualUnfreeze(_Policy[GradualOptions]):
    """Unfreezes one stage after another, by epoch or by plateau (Howard and Ruder 2018, ULMFiT)."""

    def __init__(self, options: GradualOptions) -> None:
        super().__init__(options)
        self.metric_driven = options.trigger == "plateau"

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan for the epoch at ``progress.epoch``."""
        options = self.options
        order = _last(stages, len(stages))
        if options.direction == "top":
            order.reverse()
        opened = (
            progress.epoch // options.every
            if options.trigger == "epoch"
            else plateaus(progress, options.patience, options.min_delta)
        )
        if not (options.head_first and _has_head(stages)):
            opened += 1
        reached = order[:opened]
        return _plan(stages, reached[-options.window :] if options.window else reached, options)


class LpFt(_Policy[LpFtOptions]):
    """Trains the head alone, then everything (linear probing, fine-tuning; Kumar et al. 2022)."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan for the epoch at ``progress.epoch``."""
        probing = progress.epoch < self.options.probe and _has_head(stages)
        return _plan(stages, [] if probing else _last(stages, len(stages)), self.options)


class Surgical(_Policy[SurgicalOptions]):
    """Trains chosen stages, the first one by default (Lee et al. 2023, surgical fine-tuning)."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        return _plan(stages, self.options.names or _last(stages, len(stages))[:1], self.options)


class NormOnly(_Policy[FewOptions]):
    """Trains the norm layers' scale and shift, and the head (Frankle et al. 2021)."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        norms = {name for stage in _body(stages) for name in stage.norms}
        if not norms:
            raise ConfigError(
                "the backbone has no norm layers with parameters, so 'norm-only' would train "
                "nothing in it",
                where="freeze.name",
                hint="'freeze-all' trains the head alone",
            )
        return _plan_few(stages, norms, self.options)


class BitFit(_Policy[FewOptions]):
    """Trains the biases, including those of norm layers, and the head (Ben Zaken et al. 2022)."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        # q_bias and v_bias (BEiT) are biases; relative_position_bias_table is not.
        biases = {p for p in _parameters(_body(stages)) if p.rpartition(".")[2].endswith("bias")}
        if not biases:
            raise ConfigError(
                "the backbone has no biases, so 'bitfit' would train nothing in it",
                where="freeze.name",
                hint="'freeze-all' trains the head alone",
            )
        return _plan_few(stages, biases, self.options)


class Regex(_Policy[RegexOptions]):
    """Trains the parameters whose names match regular expressions, and the head."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        names = _parameters(stages)
        norms = {name for stage in _body(stages) for name in stage.norms}
        matched: set[str] = set()
        for pattern in self.options.patterns:
            found = matching(pattern, names, "freeze.patterns")
            if not found:
                raise ConfigError(
                    "the pattern matches no parameter",
                    where="freeze.patterns",
                    got=pattern,
                    allowed=_some(names),
                    hint=f"{command('inspect', parameters=True)} lists all parameters",
                )
            if self.options.norm == "frozen" and norms.issuperset(found):
                raise ConfigError(
                    "the pattern matches only parameters of norm layers, which norm 'frozen' does "
                    "not train",
                    where="freeze.patterns",
                    got=pattern,
                    hint=f"use {setting('freeze.norm', 'affine')}, or leave out the pattern",
                )
            matched |= found
        return _plan_few(stages, matched, self.options)


class Full(_Policy[DecayedRate]):
    """Trains everything from the start, with a rate that can fall from stage to stage."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        return _plan(stages, _last(stages, len(stages)), self.options)


@hookimpl
def siamkit_register_freeze_policies(register: Register) -> None:
    """Register the built-in freeze policies."""
    register("freeze-all", FreezeAll, options=NoPolicyOptions)
    register("unfreeze-blocks", UnfreezeBlocks, options=UnfreezeBlocksOptions)
    register("stages", Stages, options=StagesOptions)
    register("gradual-unfreeze", GradualUnfreeze, options=GradualOptions)
    register("lp-ft", LpFt, options=LpFtOptions)
    register("surgical", Surgical, options=SurgicalOptions)
    register("norm-only", NormOnly, options=FewOptions)
    register("bitfit", BitFit, options=FewOptions)
    register("regex", Regex, options=RegexOptions)
    register("full", Full, options=DecayedRate)


# --- stages --------------------------------------------------------------------------------------


def _body(stages: Sequence[Stage]) -> list[Stage]:
    return [stage for stage in stages if stage.name != HEAD]


def _has_head(stages: Sequence[Stage]) -> bool:
    return any(stage.name == HEAD for stage in stages)


def _last(stages: Sequence[Stage], n: int) -> list[str]:
    """Return the names of the last ``n`` stages of the backbone, stem first."""
    return [stage.name for stage in _body(stages)][-n:]


def _parameters(stages: Iterable[Stage]) -> list[str]:
    return [name for stage in stages for name in stage.parameters]


def _plan(stages: Sequence[Stage], train: Iterable[str], options: BackboneRate) -> FreezePlan:
    return FreezePlan.of(stages, train, lr_mult=_rates(stages, options), norm=options.norm)


def _plan_few(
    stages: Sequence[Stage], parameters: set[str], options: FewOptions | BackboneRate
) -> FreezePlan:
    head = FreezePlan.of(stages, []).trainable
    return FreezePlan(head | parameters, _rates(stages, options), options.norm)


def _rates(stages: Sequence[Stage], options: FewOptions | BackboneRate) -> dict[str, float]:
    """Return the rate multiplier of each backbone stage, from its position in the network.

    Positions count all stages. Counting only trainable ones would shift every rate whenever a stage
    is frozen or unfrozen.
    """
    decay = options.decay if isinstance(options, DecayedRate) else 1.0
    deepest_first = reversed(_body(stages))
    return {s.name: options.lr_mult * decay**depth for depth, s in enumerate(deepest_first)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
