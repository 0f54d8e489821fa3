"""Calls of a network's modules: stepping in before a module computes, without surgery on it.

While a forward runs, the ``forward`` of chosen modules is replaced on the instance. Everything
around it stays: hooks that users registered run as ever, and the modules are the same objects.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn


class Call(NamedTuple):
    """One call of a module in a forward: the name, and how many calls of it came before."""

    module: str
    number: int

    def __str__(self) -> str:
        """Return the call in words."""
        again = f" (call {self.number + 1})" if self.number else ""
        return f"{self.module!r}{again}"


Answer = Callable[[Call, Callable[[], Any]], Any]
"""Gives a call's output; gets the call, and a function that computes the output."""


class Leave(BaseException):
    """Ends a forward early. No forward's own ``except Exception`` stops it."""


@contextmanager
def intercepting(net: nn.Module, names: Iterable[str], answer: Answer) -> Iterator[None]:
    """Let ``answer`` give the output of each outermost call of the named modules.

    Calls within such a call are left alone, and not counted. Compiled modules run eagerly.

    Args:
        net: The network.
        names: Modules of it.
        answer: Gives the outputs.
    """
    counts: Counter[str] = Counter()
    inside = False

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

    modules = {id(m): (name, m) for name in reversed([*names]) for m in [net.get_submodule(name)]}
    own = [(m, vars(m).get("forward")) for _, m in modules.values()]
    # The instance's dictionary: a TorchScript module refuses to set or delete its forward.
    for name, module in modules.values():
        vars(module)["forward"] = partial(forward, name, module.forward)
    try:
        with _eagerly():
            yield
    finally:
        for module, before in own:
            del vars(module)["forward"]
            if before is not None:
                vars(module)["forward"] = before


def _eagerly() -> AbstractContextManager[Any]:
    """Let what ``torch.compile`` made run as plain Python: a compiled module calls no other one."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
