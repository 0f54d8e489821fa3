"""The guard around plugins: what one of them raises or returns wrongly in a run names it.

:func:`guard` puts :func:`siamkit.errors.calling` around one method of an object, on the object
itself, so that its type, its attributes and its parameters stay what they are and no caller
changes.
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
    """A function of a plugin's that is called under its name.

    Args:
        call: The function.
        whose: Whose it is, for errors.
        check: Called with the arguments and the result; raises where the contract is broken.
    """

    def __init__(
        self, call: Callable[..., Any], whose: str, check: Callable[..., None] | None = None
    ) -> None:
        self.call, self.whose, self.check = call, whose, check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it.

        Raises:
            PluginError: It raises, or breaks its contract.
        """
        with calling(self.whose):
            result = self.call(*args, **kwargs)
        if self.check is not None:
            self.check(result, *args, **kwargs)
        return result


def guard(made: Any, whose: str) -> Any:
    """Return ``made``, a policy, scheduler, loss or optimizer, with its method under guard.

    Anything else, and what is under guard already, is returned as it is.
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
        # A frozen dataclass refuses assignment, but not this.
        object.__setattr__(made, method, Guarded(call, whose, check))
    return made


def _is_optimizer(made: object) -> bool:
    from torch.optim import Optimizer

    return isinstance(made, Optimizer)


def name_of(made: object, otherwise: str) -> str:
    """Return whose ``made`` is, for errors; ``otherwise`` where nobody guards it."""
    for method in ("plan", "lr_scale", "forward"):
        guarded = getattr(made, method, None)
        if isinstance(guarded, Guarded):
            return guarded.whose
    return otherwise


def _require_scale(whose: str, scale: Any, progress: Progress) -> None:
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise PluginError("lr_scale must return a finite number, 0 or more", where=whose, got=scale)


class Repeats:
    """Remembers a policy's answers: the same arguments must give the same plan all through a run.

    Freezing is recomputed from the policy when a run resumes, so one that answers otherwise then
    trains something else than what was recorded. That it answers alike twice in a row, the
    schedule sees to.
    """

    def __init__(self, whose: str) -> None:
        self.whose = whose
        self.given: dict[int, int] = {}

    def __call__(self, plan: Any, stages: Sequence[Stage], progress: Progress) -> None:
        """Check ``plan``, which was returned for these arguments.

        Raises:
            PluginError: Another one was returned for them before.
        """
        if not isinstance(plan, FreezePlan):
            return  # the caller says what is wrong with it
        with calling(self.whose, "returned a plan that cannot be compared"):
            # Digests, for a long run's plans would take hundreds of megabytes.
            asked, answer = hash((tuple(stages), _moment(progress))), _digest(plan)
            same = self.given.setdefault(asked, answer) == answer
        if not same:
            raise PluginError(
                f"plan gave another plan than before for epoch {progress.epoch + 1} of "
                f"{progress.epochs} with the same history",
                where=self.whose,
                hint="a policy must not count, remember or draw random numbers: a resumed run "
                "would train other parameters; 'siamkit.testing.check_freeze_policy' finds out",
            )


def _digest(plan: FreezePlan) -> int:
    return hash((plan.trainable, tuple(sorted(plan.lr_mult.items())), plan.norm))


def _moment(progress: Progress) -> tuple[Any, ...]:
    history = tuple(tuple(metrics.items()) for metrics in progress.history)
    return progress.epoch, progress.epochs, progress.step, progress.steps, history, progress.monitor
