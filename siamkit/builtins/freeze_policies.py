"""The built-in freeze policies: pure functions from progress to a plan.

Wherever stages are counted, the units are those that the policy is called with: stages, or blocks
where the run's ``backbone.granularity`` is ``block``. The head, where there is one, trains from the
first epoch to the last at the full rate; a policy that begins with the head alone skips that phase
where there is no head, for nothing would train in it. Plans never depend on the *number* of epochs,
so that prolonging a run leaves its first phases as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field

from siamkit.builtins.plateau import plateaus
from siamkit.errors import ConfigError
from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import HEAD, FreezePlan, FreezePolicy, NormMode, Options, Progress, Stage
from siamkit.spelling import command

_SHOWN = 8


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


# --- options -------------------------------------------------------------------------------------


class NoPolicyOptions(Options):
    """No options."""


class BackboneRate(Options):
    """What every policy that trains backbone stages takes."""

    lr_mult: float = Field(
        0.1, gt=0, le=100, description="Rate of the backbone stages, as a multiple of the head's."
    )
    norm: NormMode = Field(
        "affine",
        description="Norm layers in stages that train: frozen, affine (scale and shift train, "
        "statistics stay), or train (both change).",
    )


class LastStages(BackboneRate):
    """The last n stages."""

    n: int = Field(
        2, ge=1, description="How many of the last stages train; all if there are fewer."
    )


class UnfreezeBlocksOptions(LastStages):
    """Options of ``unfreeze-blocks``."""

    names: tuple[str, ...] = Field(
        (), description="Names of the stages or blocks to train, instead of the last n stages."
    )


class StagesOptions(LastStages):
    """Options of ``stages``."""

    warmup: int = Field(
        2, ge=0, description="Epochs of the head alone, at first; none if there is no head."
    )


class DecayedRate(BackboneRate):
    """A rate that falls from stage to stage, towards the input."""

    decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="What each stage's rate is multiplied by to give that of the stage below it; "
        "the last stage has lr_mult.",
    )


class GradualOptions(DecayedRate):
    """Options of ``gradual-unfreeze``."""

    direction: Literal["top", "bottom"] = Field(
        "top", description="Start from the last stage (top) or from the first one (bottom)."
    )
    trigger: Literal["epoch", "plateau"] = Field(
        "epoch",
        description="Unfreeze the next stage every so many epochs, or when the metric stalls.",
    )
    every: int = Field(1, ge=1, description="Epochs between two stages, for trigger epoch.")
    patience: int = Field(
        2, ge=1, description="Epochs without a better metric that make a plateau."
    )
    min_delta: float = Field(
        0.0, ge=0, description="Improvements up to this size don't count; in units of the metric."
    )
    head_first: bool = Field(True, description="Begin with the head alone, where there is one.")
    window: int | None = Field(
        None,
        ge=1,
        description="Train only so many of the latest stages and freeze the earlier ones again; "
        "null keeps all of them training.",
    )


class LpFtOptions(DecayedRate):
    """Options of ``lp-ft``."""

    probe: int = Field(
        3, ge=1, description="Epochs of the head alone, at first; none if there is no head."
    )


class SurgicalOptions(BackboneRate):
    """Options of ``surgical``."""

    names: tuple[str, ...] = Field(
        (), description="Names of the stages or blocks to train; the first stage if left out."
    )


class FewOptions(Options):
    """Options of the policies that train a few parameters throughout the backbone."""

    lr_mult: float = Field(
        1.0, gt=0, le=100, description="Rate of those parameters, as a multiple of the head's."
    )
    norm: Literal["affine", "train"] = Field(
        "affine",
        description="affine keeps the norm layers' running statistics; train updates them.",
    )


class RegexOptions(BackboneRate):
    """Options of ``regex``."""

    patterns: tuple[Annotated[str, AfterValidator(_compiles)], ...] = Field(
        ...,
        min_length=1,
        description="Regular expressions, searched for in parameter names; what any of them "
        "matches trains, and so does the head.",
    )


# --- policies ------------------------------------------------------------------------------------

OptionsT = TypeVar("OptionsT", bound=Options)


class _Policy(FreezePolicy, Generic[OptionsT]):
    def __init__(self, options: OptionsT) -> None:
        self.options = options


class FreezeAll(_Policy[NoPolicyOptions]):
    """Trains the head only; the backbone stays as it is."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        return FreezePlan.of(stages, [])


class UnfreezeBlocks(_Policy[UnfreezeBlocksOptions]):
    """Trains the last n stages, or the stages or blocks given by name, from the start."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        names = self.options.names or _last(stages, self.options.n)
        return _plan(stages, names, self.options)


class Stages(_Policy[StagesOptions]):
    """The classic two steps: the head alone for some epochs, then the last n stages as well."""

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
    """Linear probing, then fine-tuning: the head alone, then everything (Kumar et al. 2022)."""

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
                "the backbone has no norm layers with parameters, so 'norm-only' trains none of it",
                where="freeze.name",
                hint="'freeze-all' trains the head alone",
            )
        return _plan_few(stages, norms, self.options)


class BitFit(_Policy[FewOptions]):
    """Trains the biases, those of norm layers included, and the head (Ben Zaken et al. 2022)."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        # q_bias and v_bias count (BEiT); relative_position_bias_table is no bias of a layer.
        biases = {p for p in _parameters(_body(stages)) if p.rpartition(".")[2].endswith("bias")}
        if not biases:
            raise ConfigError(
                "the backbone has no biases, so 'bitfit' trains none of it",
                where="freeze.name",
                hint="'freeze-all' trains the head alone",
            )
        return _plan_few(stages, biases, self.options)


class Regex(_Policy[RegexOptions]):
    """Trains the parameters whose names match regular expressions, and the head."""

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan of the whole run."""
        names = _parameters(stages)
        matched: set[str] = set()
        for pattern in self.options.patterns:
            found = {name for name in names if re.search(pattern, name)}
            if not found:
                raise ConfigError(
                    "the pattern matches no parameter",
                    where="freeze.patterns",
                    got=pattern,
                    allowed=_some(names),
                    hint=f"{command('inspect', parameters=True)} lists them all",
                )
            matched |= found
        return _plan_few(stages, matched, self.options)


class Full(_Policy[DecayedRate]):
    """Trains everything from the start, with a rate that may fall from stage to stage."""

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
    """Return each backbone stage's multiplier, from its place in the network alone.

    Counting only what trains would shift every rate whenever a stage is frozen or unfrozen.
    """
    decay = options.decay if isinstance(options, DecayedRate) else 1.0
    deepest_first = reversed(_body(stages))
    return {s.name: options.lr_mult * decay**depth for depth, s in enumerate(deepest_first)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
