"""Recordings: the outputs of frozen modules in a forward, and the tensors that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from siamkit.engine.calls import Call, intercepting, targets_of
from siamkit.engine.dataflow import Dataflow, Label
from siamkit.errors import SiamkitError
from siamkit.model.names import named_modules, named_parameters

IMAGE = "image"
"""The label of the images."""


@dataclass(frozen=True)
class Recording:
    """The outputs of a network's frozen modules in an ordinary forward.

    Attributes:
        images: The number of images.
        calls: The output of each call, in execution order.
    """

    images: int
    calls: dict[Call, Any] = field(default_factory=dict)

    def forward(
        self,
        net: nn.Module,
        names: Sequence[str],
        images: Tensor,
        ended: Callable[[Call], None] = lambda call: None,
    ) -> Any:
        """Return the network's output for images, and record the named modules' outputs.

        Args:
            net: The network.
            names: The names of the modules.
            images: The images.
            ended: Called after each call of one of the modules.
        """

        def note(call: Call, compute: Any) -> Any:
            output = compute()
            ended(call)
            leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
            if not any(leaf.requires_grad for leaf in leaves):
                self.calls[call] = tree_map_only(Tensor, Tensor.detach, output)
            return output

        with intercepting(net, targets_of(net, names), note):
            return net(images)


def calls_until(calls: Mapping[Call, Any], last: Call) -> dict[Call, Any]:
    """Return the calls up to ``last``; none if ``last`` did not run."""
    names = list(calls)
    return {call: calls[call] for call in names[: names.index(last) + 1]} if last in calls else {}


@dataclass
class TracedCalls:
    """The calls of the modules before a boundary, in execution order.

    Attributes:
        module: The boundary's module.
        flow: The data-flow tracker of the forward.
        calls: The outputs that depend on no parameter that trains, by call.
        trained: Whether a module that trains has started.
        ends: The calls after which the prefix may end, each with the number of values that Python
            code had read by then.
        reason: The reason why the prefix cannot end at this boundary.
    """

    module: str
    flow: Dataflow
    calls: dict[Call, Any] = field(default_factory=dict)
    trained: bool = False
    ends: list[tuple[Call, int]] = field(default_factory=list)
    reason: str = "it does not run in a forward"

    def note(self, call: Call, compute: Any) -> Any:
        """Record the output of a call, or the reason why it is not before the boundary."""
        output = compute()
        leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        labels = self.flow.labels(leaves)
        trains = sorted(name for label in labels if (name := state_of(label, "parameter")))
        if self.trained:
            self.reason = "it runs after a module that trains"
        elif trains or any(leaf.requires_grad for leaf in leaves):
            named = (
                f" ({', '.join(trains[:3])})" if trains else ", or the forward asks for gradients"
            )
            self.reason = f"its output depends on parameters that train{named}"
        else:
            self.calls[call] = copied(output)
            if call.module == self.module:
                self.ends.append((call, len(self.flow.reads)))
        return output

    @contextmanager
    def watching(self, net: nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Within the block, set ``trained`` as soon as a module that trains starts.

        Modules around the prefix's modules start earlier and do not count. Their own parameters,
        such as class tokens, are followed by labels instead.
        """

        def start(*_: Any) -> None:
            self.trained = True

        handles = [
            m.register_forward_pre_hook(start)
            for name, m in named_modules(net)
            if any(p.requires_grad for p in m.parameters(recurse=False))
            and not any(n.startswith(f"{name}.") for n in names)
            and name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def last(self) -> Call:
        """Return the last frozen call of the boundary's module, at which the prefix ends.

        Raises:
            SiamkitError: The module has no frozen call, or the code before the call branches on
                values of the images.
        """
        if not self.ends:
            raise SiamkitError(self.reason)
        last, reads = self.ends[-1]
        for labels, place in self.flow.reads[:reads]:
            if IMAGE in labels:
                raise SiamkitError(f"the forward branches on values of its images ({place})")
        return last


def mark_state(net: nn.Module, flow: Dataflow) -> None:
    """Let the data-flow tracker follow a network's buffers, and the parameters that train."""
    for name, parameter in named_parameters(net):
        if parameter.requires_grad:
            flow.mark(parameter, ("parameter", name))
    for name, buffer in net.named_buffers():
        flow.mark(buffer, ("buffer", name))


def state_of(label: Label, kind: str) -> str | None:
    """Return the tensor's name in a label of a kind (``parameter`` or ``buffer``), or None."""
    return label[1] if isinstance(label, tuple) and label[0] == kind else None


copied = partial(tree_map_only, Tensor, lambda tensor: tensor.detach().clone())
"""Returns a value with copies of its tensors."""
