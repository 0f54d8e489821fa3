"""The built-in schedulers: pure functions from progress to a multiplier of every rate.

The option ``warmup`` is the number of epochs in which the rate rises to its full value: linearly,
or along a cosine for ``one-cycle``. ``cosine``, ``linear`` and ``one-cycle`` then fall until the
run ends. Time advances per optimizer step if the number of steps is known, else per epoch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Generic, TypeVar

from pydantic import Field

from siamkit.builtins.plateau import plateaus
from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Options, Progress, Scheduler


class WarmupOptions(Options):
    """The options of every schedule."""

    warmup: float = Field(
        0.0,
        ge=0,
        description="Epochs at the start in which the rate rises linearly to its full value.",
    )


class AnnealOptions(WarmupOptions):
    """The options of a schedule that ends at a fraction of the full rate."""

    final: float = Field(0.0, ge=0, le=1, description="Final rate, as a share of the full rate.")


class StepOptions(WarmupOptions):
    """The options of ``step``."""

    every: int = Field(
        5, ge=1, description="Epochs between two reductions, counted from the start of the run."
    )
    factor: float = Field(0.1, gt=0, le=1, description="Factor of each reduction.")


class OneCycleOptions(AnnealOptions):
    """The options of ``one-cycle``."""

    warmup: float | None = Field(  # type: ignore[assignment]
        None, ge=0, description="Epochs of the rise; null: 30 % of the run."
    )
    start: float = Field(0.04, gt=0, le=1, description="First rate, as a share of the full rate.")
    final: float = Field(1e-4, ge=0, le=1, description="Final rate, as a share of the full rate.")


class PlateauOptions(AnnealOptions):
    """The options of ``plateau``."""

    patience: int = Field(3, ge=1, description="Epochs without improvement before a reduction.")
    min_delta: float = Field(
        0.0, ge=0, description="Ignore improvements up to this size, in units of the metric."
    )
    factor: float = Field(0.3, gt=0, lt=1, description="Factor of each reduction.")
    final: float = Field(0.01, ge=0, le=1, description="Lowest rate, as a share of the full rate.")


OptionsT = TypeVar("OptionsT", bound=WarmupOptions)


class _Warmed(Scheduler, Generic[OptionsT]):
    """A schedule after a warm-up; subclasses define the rest of the run."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def lr_scale(self, progress: Progress) -> float:
        """Return the multiplier for the optimizer step at ``progress.step``."""
        warmup = self.options.warmup
        return _rise(progress, warmup) * self._scale(progress, _share_after(progress, warmup))

    @abstractmethod
    def _scale(self, progress: Progress, share: float) -> float:
        """Return the scale at ``share``, in [0, 1], of the time after the warm-up."""


class Constant(_Warmed[WarmupOptions]):
    """Keeps the full rate throughout."""

    def _scale(self, progress: Progress, share: float) -> float:
        return 1.0


class Cosine(_Warmed[AnnealOptions]):
    """Falls along half a cosine from the full rate to ``final`` (Loshchilov and Hutter 2017)."""

    def _scale(self, progress: Progress, share: float) -> float:
        return _cosine(1.0, self.options.final, share)


class Linear(_Warmed[AnnealOptions]):
    """Falls linearly from the full rate to ``final``."""

    def _scale(self, progress: Progress, share: float) -> float:
        return 1.0 + (self.options.final - 1.0) * share


class Step(_Warmed[StepOptions]):
    """Multiplies the rate by ``factor`` every ``every`` epochs."""

    def _scale(self, progress: Progress, share: float) -> float:
        return self.options.factor ** (progress.epoch // self.options.every)


class Plateau(_Warmed[PlateauOptions]):
    """Multiplies the rate by ``factor`` whenever the monitored metric stops improving."""

    def _scale(self, progress: Progress, share: float) -> float:
        options = self.options
        # In the warm-up the rate is small, so these epochs say nothing about the full rate.
        met = plateaus(progress, options.patience, options.min_delta, start=options.warmup)
        return max(options.factor**met, options.final)


class OneCycle(Scheduler):
    """Rises to the full rate and falls again, both along a cosine (Smith and Topin 2018)."""

    def __init__(self, options: OneCycleOptions) -> None:
        self.options = options

    def lr_scale(self, progress: Progress) -> float:
        """Return the multiplier for the optimizer step at ``progress.step``."""
        options = self.options
        rise = 0.3 * progress.epochs if options.warmup is None else options.warmup
        elapsed = _elapsed(progress)
        if elapsed < rise:
            return _cosine(options.start, 1.0, elapsed / rise)
        return _cosine(1.0, options.final, _share_after(progress, rise))


@hookimpl
def siamkit_register_schedulers(register: Register) -> None:
    """Register the built-in schedulers."""
    register("constant", Constant, options=WarmupOptions)
    register("cosine", Cosine, options=AnnealOptions)
    register("linear", Linear, options=AnnealOptions)
    register("step", Step, options=StepOptions)
    register("one-cycle", OneCycle, options=OneCycleOptions)
    register("plateau", Plateau, options=PlateauOptions)


def _elapsed(progress: Progress) -> float:
    """Return the number of completed epochs, including the fraction of the current one."""
    return progress.fraction * progress.epochs


def _rise(progress: Progress, warmup: float) -> float:
    """Return the multiplier of the warm-up. The current step counts, so it is never 0."""
    tick = progress.epochs / progress.steps if progress.steps else 1.0
    return min(1.0, (_elapsed(progress) + tick) / warmup) if warmup else 1.0


def _share_after(progress: Progress, warmup: float) -> float:
    """Return the completed share, in [0, 1], of the time after the warm-up."""
    rest = progress.epochs - warmup
    if rest <= 0:
        return 0.0
    return min(max((_elapsed(progress) - warmup) / rest, 0.0), 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0
