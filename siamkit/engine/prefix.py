"""The prefix: runs a network up to its boundary, without changing the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._pytree import tree_leaves

from siamkit.engine.boundary import Boundary
from siamkit.engine.calls import Call, Leave, intercepting, targets_of
from siamkit.engine.frontier import Frontier
from siamkit.errors import SiamkitError
from siamkit.model.names import parent, submodule
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import Snapshot


class Prefix(nn.Module):
    """The part of a network before a boundary, as a module of its own.

    The prefix runs the network's own ``forward`` and leaves it by an exception as soon as all
    tensors that cross the boundary are computed. This works in eager mode and when a compiler
    captures the forward.

    The prefix is a fixed function of each image: the network runs in eval mode without gradients,
    whatever its own mode is, and what the forward stores in buffers and attributes is undone. The
    suffix runs the same code again and stores these values once, as the whole network does.

    Args:
        net: The network. Its modules are used, not copied.
        boundary: The boundary.
        frontier: The tensors that cross the boundary.
    """

    def __init__(self, net: nn.Module, boundary: Boundary, frontier: Frontier) -> None:
        super().__init__()
        self.net = net
        self._frontier = frontier
        self._targets = targets_of(net, boundary.names)
        around = {above for name in boundary.names for above in _around(name)}
        # In a tuple, so that they are not registered a second time.
        self._around = tuple(submodule(net, name) for name in sorted(around))

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``[N, ...]`` of ``images [N, C, H, W]`` at the boundary.

        If only the output of the boundary's module crosses the boundary, it is returned as it is.
        Otherwise, all tensors that cross are flattened and joined in one tensor ``[N, values]``.

        Raises:
            SiamkitError: The forward ended before all tensors were computed.
        """
        frontier = self._frontier
        tensors: dict[int, Tensor] = {}
        wanted: dict[Call, list[tuple[int, int]]] = {}
        for at, port in enumerate(frontier.ports):
            if port.call is None:
                tensors[at] = images
            else:
                wanted.setdefault(port.call, []).append((at, port.leaf))
        last = frontier.last

        def note(call: Call, compute: Any) -> Any:
            output = compute()
            leaves = tree_leaves(output) if call in wanted else ()
            for at, leaf in wanted.get(call, ()):
                # Code before the last call may still change the tensor in place.
                tensors[at] = leaves[leaf] if call == last else leaves[leaf].clone()
            if call == last:
                raise Leave
            return output

        # While a compiler traces the forward, copies of buffers would become part of the graph.
        snapshot = Snapshot(self._around, contents=get_proxy_mode() is None)
        try:
            with evaluating(self.net), intercepting(self.net, self._targets, note):
                self.net(images.clone() if frontier.image_written else images)
        except Leave:
            return frontier.pack(tensors)
        finally:
            snapshot.restore()
        raise SiamkitError(f"the forward did not reach {last}")


def _around(name: str) -> Iterator[str]:
    """Yield the names of the modules around a module, the network itself included."""
    while name:
        name = parent(name)
        yield name
