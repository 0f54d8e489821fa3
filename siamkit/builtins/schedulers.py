"""The built-in schedulers: pure functions from progress to a multiplier of every rate.

Each takes ``warmup``, in epochs: a linear rise that ends at the full rate. The rest of the run is
what the schedule proper is stretched over. Time runs by optimizer step where the number of steps is
known, else by epoch.
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
    """What every schedule takes."""

    warmup: float = Field(
        0.0, ge=0, description="Epochs over which the rate rises linearly to its full value."
    )


class AnnealOptions(WarmupOptions):
    """A schedule that ends at a fraction of the full rate."""

    final: float = Field(0.0, ge=0, le=1, description="Scale that the rate falls to.")


class StepOptions(WarmupOptions):
    """A fall every so many epochs."""

    every: int = Field(5, ge=1, description="Epochs between two falls, counted from the start.")
    factor: float = Field(0.1, gt=0, le=1, description="What each fall multiplies the rate by.")


class OneCycleOptions(AnnealOptions):
    """One rise and one fall."""

    warmup: float | None = Field(  # type: ignore[assignment]
        None, ge=0, description="Epochs of the rise; null for 30% of the run."
    )
    start: float = Field(0.04, gt=0, le=1, description="Scale that the rise starts from.")
    final: float = Field(1e-4, ge=0, le=1, description="Scale that the rate falls to.")


class PlateauOptions(AnnealOptions):
    """A fall whenever the monitored metric stops improving."""

    patience: int = Field(3, ge=1, description="Epochs without a better metric before a fall.")
    min_delta: float = Field(
        0.0, ge=0, description="Improvements up to this size don't count; in units of the metric."
    )
    factor: float = Field(0.3, gt=0, lt=1, description="What each fall multiplies the rate by.")
    final: float = Field(0.01, ge=0, le=1, description="Scale below which the rate never falls.")


OptionsT = TypeVar("OptionsT", bound=WarmupOptions)


class _Warmed(Scheduler, Generic[OptionsT]):
    """A schedule after a warm-up; subclasses say how the rest of the run goes."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def lr_scale(self, progress: Progress) -> float:
        """Return the multiplier for the optimizer step at ``progress.step``."""
        warmup = self.options.warmup
        return _rise(progress, warmup) * self._scale(progress, _share_after(progress, warmup))

    @abstractmethod
    def _scale(self, progress: Progress, share: float) -> float:
        """Return the scale at ``share``, in [0, 1], of what follows the warm-up."""


class Constant(_Warmed[WarmupOptions]):
    """The full rate throughout."""

    def _scale(self, progress: Progress, share: float) -> float:
        return 1.0


class Cosine(_Warmed[AnnealOptions]):
    """Half a cosine from the full rate to ``final`` (Loshchilov and Hutter 2017, SGDR)."""

    def _scale(self, progress: Progress, share: float) -> float:
        return _cosine(1.0, self.options.final, share)


class Linear(_Warmed[AnnealOptions]):
    """A straight line from the full rate to ``final``."""

    def _scale(self, progress: Progress, share: float) -> float:
        return 1.0 + (self.options.final - 1.0) * share


class Step(_Warmed[StepOptions]):
    """Multiplies the rate by ``factor`` every so many epochs."""

    def _scale(self, progress: Progress, share: float) -> float:
        return self.options.factor ** (progress.epoch // self.options.every)


class Plateau(_Warmed[PlateauOptions]):
    """Multiplies the rate by ``factor`` whenever the monitored metric stops improving."""

    def _scale(self, progress: Progress, share: float) -> float:
        options = self.options
        # Epochs of the warm-up, when the rate is small, say nothing about the full rate.
        met = plateaus(progress, options.patience, options.min_delta, start=options.warmup)
        return max(options.factor**met, options.final)


class OneCycle(Scheduler):
    """One cosine rise to the full rate and one fall (Smith and Topin 2018, super-convergence)."""

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
    """Return the epochs that are done, as a real number."""
    return progress.fraction * progress.epochs


def _rise(progress: Progress, warmup: float) -> float:
    """Return the warm-up's multiplier; it counts the current step, lest the first one be lost."""
    tick = progress.epochs / progress.steps if progress.steps else 1.0
    return min(1.0, (_elapsed(progress) + tick) / warmup) if warmup else 1.0


def _share_after(progress: Progress, warmup: float) -> float:
    """Return the share, in [0, 1], that is done of what follows the warm-up."""
    rest = progress.epochs - warmup
    if rest <= 0:
        return 0.0
    return min(max((_elapsed(progress) - warmup) / rest, 0.0), 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0
