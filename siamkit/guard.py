"""The guard: errors and wrong results of a plugin in a run name the plugin.

:func:`guard` wraps one method of an object in :func:`siamkit.errors.calling`. It does so on the
object itself, so the object keeps its type, attributes and parameters, and no caller changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

from siamkit.errors import PluginError, calling
from siamkit.interfaces import FreezePlan, FreezePolicy, Loss, Progress, Scheduler, Stage


class Guarded:
    """A plugin's function whose errors name the plugin.

    Args:
        call: The function.
        whose: The plugin's entry, for errors.
        check: Called with the result and the arguments; raises if they break the contract.
    """

    def __init__(
        self, call: Callable[..., Any], whose: str, check: Callable[..., None] | None = None
    ) -> None:
        self.call, self.whose, self.check = call, whose, check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function and check its result.

        Raises:
            PluginError: The function raised, or broke its contract.
        """
        with calling(self.whose):
            result = self.call(*args, **kwargs)
        if self.check is not None:
            self.check(result, *args, **kwargs)
        return result


def guard(made: Any, whose: str) -> Any:
    """Guard the method of a policy, scheduler, loss or optimizer, and return the object.

    Other objects, and objects that are guarded already, are returned unchanged.
    """
    check: Callable[..., None] | None = None
    if isinstance(made, FreezePolicy):
        method, check = "plan", Repeats(whose)
    elif isinstance(made, Scheduler):
        method, check = "lr_scale", partial(_require_scale, whose)
    elif isinstance(made, Loss):
        method = "forward"
    elif _is_optimizer(made):
        method = "step"
    else:
        return made
    call = getattr(made, method)
    if not isinstance(call, Guarded):
        # A plain assignment would fail on a frozen dataclass.
        object.__setattr__(made, method, Guarded(call, whose, check))
    return made


def _is_optimizer(made: object) -> bool:
    from torch.optim import Optimizer

    return isinstance(made, Optimizer)


def name_of(made: object, otherwise: str) -> str:
    """Return the plugin's entry that made an object, for errors; ``otherwise`` if not guarded."""
    for method in ("plan", "lr_scale", "forward"):
        guarded = getattr(made, method, None)
        if isinstance(guarded, Guarded):
            return guarded.whose
    return otherwise


def _require_scale(whose: str, scale: Any, progress: Progress) -> None:
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise PluginError("lr_scale must return a finite number, 0 or more", where=whose, got=scale)


class Repeats:
    """Checks that a policy returns the same plan for the same arguments throughout a run.

    A resumed run computes its plans from the policy again. A policy that then returns another
    plan would train other parameters than the record says. The schedule checks two calls in a
    row; this class also compares calls that are far apart.
    """

    def __init__(self, whose: str) -> None:
        self.whose = whose
        self.plans: dict[int, int] = {}

    def __call__(self, plan: Any, stages: Sequence[Stage], progress: Progress) -> None:
        """Check the plan that was returned for these arguments.

        Raises:
            PluginError: An earlier call with these arguments returned another plan.
        """
        if not isinstance(plan, FreezePlan):
            return  # the caller reports it
        with calling(self.whose, "returned a plan that cannot be compared"):
            # Digests: the plans of a long run would take hundreds of megabytes.
            arguments, result = hash((tuple(stages), _moment(progress))), _digest(plan)
            same = self.plans.setdefault(arguments, result) == result
        if not same:
            raise PluginError(
                f"plan returned different plans for epoch {progress.epoch + 1} of "
                f"{progress.epochs} with the same history",
                where=self.whose,
                hint="a policy must not count calls, keep state or draw random numbers, because a "
                "resumed run would train other parameters; test it with "
                "siamkit.testing.check_freeze_policy",
            )


def _digest(plan: FreezePlan) -> int:
    return hash((plan.trainable, tuple(sorted(plan.lr_mult.items())), plan.norm))


def _moment(progress: Progress) -> tuple[Any, ...]:
    history = tuple(tuple(metrics.items()) for metrics in progress.history)
    return progress.epoch, progress.epochs, progress.step, progress.steps, history, progress.monitor
