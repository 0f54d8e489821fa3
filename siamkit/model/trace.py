"""The trace: records when each module runs and each parameter is used, in one forward.

Times are *ticks*: the numbers 0, 1, 2, ... of the recorded events in their order. Events are
recorded by forward hooks and a torch function mode. ``torch.fx`` is not used, because it fails on
many models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from siamkit.model.modes import in_eval_mode
from siamkit.model.names import named_modules, named_parameters, parent, submodule, unwrap


@dataclass(frozen=True)
class Trace:
    """The order in which a module's descendants ran and its parameters were used.

    Attributes:
        starts: The tick of the first call of each module that ran, by the module's name.
        ends: The tick of the last return of each module that ran, by the module's name. TorchScript
            modules have a start, but no end.
        uses: The tick of the first use of each parameter, by the parameter's name. Uses in compiled
            code (TorchScript) are not recorded.
    """

    starts: Mapping[str, int]
    ends: Mapping[str, int]
    uses: Mapping[str, int] = field(default_factory=dict)

    def start(self, name: str) -> int | None:
        """Return the start of the module ``name``, or of its nearest ancestor that ran.

        The ancestor counts because some modules only hold parameters that an ancestor uses (fused
        attention projections). The root does not count: the result is None if only the root ran.
        """
        while name:
            if name in self.starts:
                return self.starts[name]
            name = parent(name)
        return None

    def first_use(self, parameter: str) -> int | None:
        """Return the tick of a parameter's first use.

        If no use was recorded, this is the start of the module that holds the parameter, or None if
        that module did not run or is the root.
        """
        owner = parent(parameter)
        return self.uses.get(parameter, self.starts.get(owner) if owner else None)

    def used_before_its_owner(self, parameter: str) -> bool:
        """Return whether another module used a parameter before the module that holds it."""
        use, owner = self.uses.get(parameter), self.starts.get(parent(parameter))
        return use is not None and (owner is None or use < owner)

    def used_in(self, parameter: str, module: str) -> bool:
        """Return whether a parameter was first used while ``module`` ran."""
        use, start = self.uses.get(parameter), self.starts.get(module)
        return use is not None and start is not None and start < use < self.ends.get(module, use)

    def ran(self, name: str) -> bool:
        """Return whether the module ``name`` itself was called."""
        return name in self.starts

    def ran_within(self, name: str) -> bool:
        """Return whether a descendant of ``name`` was called."""
        return name in self._with_running_descendants

    @cached_property
    def _with_running_descendants(self) -> frozenset[str]:
        ancestors = set()
        for name in self.starts:
            while name:
                name = parent(name)
                ancestors.add(name)
        return frozenset(ancestors)


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled modules as plain Python within the block, so that their hooks are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing dynamo is slow
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode without gradients within the block, then restore all modes.

    Several threads may do so at the same time.
    """
    with in_eval_mode(module), torch.no_grad():
        yield


def watch(
    net: nn.Module,
    names: Iterable[str],
    call: Callable[[], object],
    note: Callable[[str, Any], None],
) -> None:
    """Run ``call`` in eval mode, and call ``note`` for each forward of the named modules.

    TorchScript modules cannot be watched and are ignored.

    Args:
        net: The network that ``call`` runs.
        names: The names of the modules to watch.
        call: A function that runs the network.
        note: Called with the name and the output of a module after the module's forward.
    """

    def hook(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        note(name, output)

    modules = {name: submodule(net, name) for name in names}
    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in modules.items()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        with evaluating(net), eagerly():
            call()
    finally:
        for handle in handles:
            handle.remove()


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """Return the type of a module's first floating-point parameter; None if there is none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def autocasting(tensor: Tensor) -> bool:
    """Return whether autocast is active for operations on ``tensor``."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def blank(module: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Return one black image ``[1, C, H, W]`` on the device and in the type of ``module``."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, channels, *size, dtype=like.dtype, device=like.device)


def trace(module: nn.Module, example: Any) -> Trace:
    """Run ``module`` once on ``example``, in eval mode, and return the trace.

    Args:
        module: Any module. Wrappers around it are removed.
        example: One image ``[1, C, H, W]``, a tuple of arguments or a mapping of keyword arguments.
    """
    module = unwrap(module)
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    tick = iter(range(2**62))

    def enter(name: str, *_: Any) -> None:
        starts.setdefault(name, next(tick))

    def leave(name: str, *_: Any) -> None:
        ends[name] = next(tick)

    uses = _Uses(module, tick)
    handles = []
    try:
        scripted = {}
        for name, m in named_modules(module):
            if isinstance(m, torch.jit.ScriptModule):
                scripted[name] = m
                continue
            handles.append(m.register_forward_pre_hook(partial(enter, name)))
            handles.append(m.register_forward_hook(partial(leave, name)))
        with evaluating(module), eagerly(), _entering(scripted, enter), uses:
            call(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(starts, ends, uses.first)


def call(module: nn.Module, example: Any) -> Any:
    """Return the output of ``module`` for an argument, a tuple or a mapping of arguments."""
    if isinstance(example, Mapping):
        return module(**example)
    return module(*example) if isinstance(example, tuple) else module(example)


@contextmanager
def _entering(scripted: Mapping[str, nn.Module], enter: Callable[[str], None]) -> Iterator[None]:
    """Record calls of TorchScript modules in the block by replacing ``forward``, not by hooks."""

    def forward(name: str, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        enter(name)
        return run(*args, **kwargs)

    for name, module in scripted.items():
        vars(module)["forward"] = partial(forward, name, module.forward)
    try:
        yield
    finally:
        for module in scripted.values():
            vars(module).pop("forward", None)


class _Uses(TorchFunctionMode):
    """A torch function mode that records the first use of each parameter in a computation.

    Reading only a parameter's type or shape does not count.
    """

    def __init__(self, module: nn.Module, tick: Iterator[int]) -> None:
        super().__init__()
        self.first: dict[str, int] = {}
        self._tick = tick
        self._names = {id(p): name for name, p in named_parameters(module)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in _LOOKS:
            used = [self._names.get(id(value)) for value in tree_leaves((args, kwargs))]
            if new := [name for name in used if name and name not in self.first]:
                self.first.update(dict.fromkeys(new, next(self._tick)))
        return func(*args, **kwargs)


_LOOKS = frozenset(
    ("__get__", "__set__", "size", "dim", "ndimension", "numel", "nelement", "stride", "__len__",
     "is_floating_point", "is_complex", "is_contiguous", "element_size", "data_ptr", "get_device",
     "requires_grad_", "storage_offset", "type")
)  # fmt: skip
