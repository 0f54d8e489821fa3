"""The guard: adds a plugin's name to the errors of its code, and to errors about its results.

:func:`guard` wraps one method of an object in :func:`siamkit.errors.calling`. The wrapper replaces
the method on the object itself, so the object keeps its type, attributes and parameters, and no
caller changes.

A network's forward and a loss's backward cannot be wrapped: the engine captures the forward and
replaces parts of it, and autograd calls the backward. For these, :func:`attributing` finds the
failed plugin from the traceback.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from types import FrameType
from typing import TYPE_CHECKING, Any

from siamkit.errors import PluginError, calling, is_nobodys_fault
from siamkit.interfaces import FreezePlan, FreezePolicy, Loss, Progress, Scheduler, Stage

if TYPE_CHECKING:
    from torch import nn

_CALL = "torch.nn.modules.module"
"""The Python module whose functions call a module's forward."""

_BACKWARD = "_engine_run_backward"
"""The function that starts autograd. Whatever autograd calls comes after it in a traceback."""

_APPLY = "torch.autograd.function"
"""The Python module that calls the backward of a ``torch.autograd.Function``, a graph node."""

_MARK = "siamkit: the input of a loss"
"""The metadata key that marks the node of autograd's graph at which a loss begins."""

_SHARED = ("torch", "siamkit")
"""Packages that hold more than one plugin's code."""


class Guarded:
    """A plugin's function whose errors name the plugin.

    Args:
        call: The function.
        whose: The plugin's entry, for errors.
        check: Called with the result and the arguments. It raises PluginError if the result breaks
            the contract; None: no check.
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


class GuardedLoss(Guarded):
    """A loss's forward. Each call marks where the loss begins in autograd's graph.

    The mark shows whether an error in backward comes from the loss or from the network.
    """

    def __call__(self, embeddings: Any, *args: Any, **kwargs: Any) -> Any:
        """Mark the embeddings' node in autograd's graph, and call the forward.

        Raises:
            PluginError: The forward raised.
        """
        if getattr(embeddings, "is_leaf", False) and embeddings.requires_grad:
            # A leaf has no node of its own to mark, and must not be changed in place.
            embeddings = embeddings.clone()
        node = getattr(embeddings, "grad_fn", None)
        if node is not None:
            node.metadata[_MARK] = True
        return super().__call__(embeddings, *args, **kwargs)


def guard(made: Any, whose: str) -> Any:
    """Wrap the method of a plugin's object that a run calls, and return the object.

    The method is a policy's ``plan``, a scheduler's ``lr_scale``, a loss's ``forward`` or an
    optimizer's ``step``. Other objects, and objects that are guarded already, stay unchanged.

    Args:
        made: The object.
        whose: The plugin's entry, for errors, such as ``loss 'triplet' of siamkit-mine``.
    """
    check: Callable[..., None] | None = None
    wrapper = Guarded
    if isinstance(made, FreezePolicy):
        method, check = "plan", Repeats(whose)
    elif isinstance(made, Scheduler):
        method, check = "lr_scale", SameScale(whose, made.lr_scale)
    elif isinstance(made, Loss):
        method, wrapper = "forward", GuardedLoss
    elif _is_optimizer(made):
        method = "step"
    else:
        return made
    call = getattr(made, method)
    if not isinstance(call, Guarded):
        # A plain assignment would fail on a frozen dataclass.
        object.__setattr__(made, method, wrapper(call, whose, check))
    return made


def _is_optimizer(made: object) -> bool:
    from torch.optim import Optimizer

    return isinstance(made, Optimizer)


def name_of(made: object, otherwise: str) -> str:
    """Return the text for a guarded policy, scheduler or loss in errors; else ``otherwise``."""
    for method in ("plan", "lr_scale", "forward"):
        guarded = getattr(made, method, None)
        if isinstance(guarded, Guarded):
            return guarded.whose
    return otherwise


class SameScale:
    """Checks that a scheduler returns a multiplier, and the same one for the same progress.

    A resumed run continues with a new scheduler. If that returned other multipliers, the run would
    train differently. The second call is made once per epoch only, because it takes time too.

    Args:
        whose: The plugin's entry, for errors.
        call: The scheduler's own ``lr_scale``.
    """

    def __init__(self, whose: str, call: Callable[[Progress], Any]) -> None:
        self.whose, self.call = whose, call
        self.epoch: int | None = None

    def __call__(self, scale: Any, progress: Progress) -> None:
        """Check the multiplier that was returned for this progress.

        Raises:
            PluginError: It is no finite number of 0 or more, or another call returns another one.
        """
        if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
            raise PluginError(
                "lr_scale must return a finite number, 0 or more", where=self.whose, got=scale
            )
        if progress.epoch == self.epoch:
            return
        with calling(self.whose):
            again = self.call(progress)
        if again != scale:
            raise PluginError(
                f"lr_scale returned two different multipliers for step {progress.step + 1}",
                where=self.whose,
                got=f"{scale}, then {again}",
                hint="a scheduler must not count calls, keep state or draw random numbers, because "
                "a resumed run would train at other rates; test it with "
                "siamkit.testing.check_scheduler",
            )
        self.epoch = progress.epoch


class Repeats:
    """Checks that a policy returns the same plan for the same arguments throughout a run.

    A resumed run asks the policy for its plans again. If the policy then returned another plan,
    the run would train other parameters than its record says. The schedule compares two calls in
    a row; this class also compares calls that are far apart.

    Args:
        whose: The plugin's entry, for errors.
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
            return  # the caller reports the wrong type
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


# --- forward and backward ------------------------------------------------------------------------


@contextmanager
def attributing(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Turn an exception of a plugin's module in forward or backward into one that names the plugin.

    Args:
        modules: The modules of a run, each by the text that names it in errors, such as
            ``backbone 'tinyconv' of siamkit-tinyconv``.

    Raises:
        PluginError: The exception came from the forward of one of ``modules``; or it came from code
            that autograd called, and this code is in the Python module or package that defines one
            of ``modules``. Other exceptions pass unchanged, and so do those for which
            :func:`siamkit.errors.is_nobodys_fault` returns True.
    """
    try:
        yield
    except BaseException as error:
        place = None if is_nobodys_fault(error) else _place(error, modules)
        if place is None:
            raise
        raise PluginError(f"{place}: {type(error).__name__}: {error}") from error


def _place(error: BaseException, modules: Mapping[str, nn.Module]) -> str | None:
    """Return a text such as ``loss 'x' of y failed in backward``; None if no plugin failed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        if frame.f_globals.get("__name__") == _CALL:
            called = frame.f_locals.get("self")
            for whose, module in modules.items():
                if any(part is called for part in module.modules()):
                    return f"{whose} failed in forward"
    started = [number for number, frame in enumerate(frames) if frame.f_code.co_name == _BACKWARD]
    for frame in frames[: started[0] : -1] if started else ():  # the innermost first
        owners = _owners(frame.f_globals.get("__name__", ""), modules)
        if len(owners) > 1:
            owners = _on_its_side(frames, owners, modules)
        if owners:
            return f"{' or '.join(owners)} failed in backward"
    return None


def _on_its_side(
    frames: Sequence[FrameType], owners: list[str], modules: Mapping[str, nn.Module]
) -> list[str]:
    """Return those of ``owners`` that are on the failed node's side of the graph: loss or network.

    The node belongs to the loss if it depends on the loss's input, which is marked. If no node is
    known, or no owner is on the node's side, all of ``owners`` are returned.
    """
    nodes = [
        frame.f_locals.get("self") for frame in frames if frame.f_globals.get("__name__") == _APPLY
    ]
    if not nodes:  # a hook failed, not a node
        return owners
    within = _reaches_mark(nodes[-1])
    return [whose for whose in owners if isinstance(modules[whose], Loss) is within] or owners


def _reaches_mark(node: Any) -> bool:
    following, seen = [before for before, _ in node.next_functions], set()
    while following:
        before = following.pop()
        if before is None or before in seen:
            continue
        if before.metadata.get(_MARK):
            return True
        seen.add(before)
        following += [further for further, _ in before.next_functions]
    return False


def _owners(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the texts for all of ``modules`` whose code is in the Python module ``name``."""
    sources = {
        whose: {source for part in module.modules() if (source := type(part).__module__)}
        for whose, module in modules.items()
    }
    package = _package(name)
    exact = [whose for whose, own in sources.items() if name in own and package != "torch"]
    if exact or package in _SHARED:
        return exact
    return [whose for whose, own in sources.items() if package in map(_package, own)]


def _package(name: str) -> str:
    return name.partition(".")[0]
