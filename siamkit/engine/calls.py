"""Module calls: intercepts calls of a network's modules without changing the network.

While a forward runs, the ``forward`` of chosen modules is replaced on the instance. Nothing else
changes: the users' hooks run as usual, and the modules are the same objects.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from siamkit.model.names import submodule


class Call(NamedTuple):
    """One call of a module in a forward: the module's name, and the number of its earlier calls."""

    module: str
    number: int

    def __str__(self) -> str:
        """Return the call as text."""
        again = f" (call {self.number + 1})" if self.number else ""
        return f"{self.module!r}{again}"


Answer = Callable[[Call, Callable[[], Any]], Any]
"""Returns a call's output, given the call and a function that computes the output."""


_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
"""A lock per network: only one thread at a time may replace the calls of a network's modules."""


class Leave(BaseException):
    """An exception that ends a forward early. ``except Exception`` does not catch it."""


def targets_of(net: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules to intercept, by name; a module with two names is listed under the first.

    Keep the result, because looking the modules up takes longer than a small forward.
    """
    first = {id(m): (name, m) for name in reversed([*names]) for m in [submodule(net, name)]}
    return dict(first.values())


@contextmanager
def intercepting(
    net: nn.Module, targets: Mapping[str, nn.Module], answer: Answer
) -> Iterator[None]:
    """Within the block, let ``answer`` return the output of each outermost call of ``targets``.

    A call inside an intercepted call is neither replaced nor counted. Compiled modules run eagerly.

    Args:
        net: The network.
        targets: Modules of the network, as :func:`targets_of` returns them.
        answer: Returns the output of a call.
    """
    counts: Counter[str] = Counter()
    inside = False
    lock = _LOCKS.setdefault(net, RLock())

    def forward(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return original(*args, **kwargs)
        call = Call(name, counts[name])
        counts[name] += 1
        inside = True
        try:
            return answer(call, partial(original, *args, **kwargs))
        finally:
            inside = False

    with lock, _eagerly():
        own = [(m, vars(m).get("forward")) for m in targets.values()]
        # Through the instance's dictionary: a TorchScript module refuses to set its forward.
        for name, module in targets.items():
            vars(module)["forward"] = partial(forward, name, module.forward)
        try:
            yield
        finally:
            for module, before in own:
                del vars(module)["forward"]
                if before is not None:
                    vars(module)["forward"] = before


def _eagerly() -> AbstractContextManager[Any]:
    """Run compiled modules as plain Python, so that the modules in them are called."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
