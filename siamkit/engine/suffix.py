"""The suffix: only what comes after a boundary, without surgery on the network.

The network's own ``forward`` runs, but each module of the prefix answers with what the activations
hold of its output, or with a placeholder where nothing depends on it. So no frozen layer is
computed, and whatever the forward does in between (class tokens, position embeddings, reshapes) is
done as ever.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from siamkit.engine.boundary import Boundary
from siamkit.engine.calls import Call, intercepting
from siamkit.engine.frontier import Frontier


class Suffix(nn.Module):
    """From activations at a boundary to the network's output, with gradients for what trains.

    Args:
        net: The network. Its modules are used, not copied.
        boundary: Where the activations were taken.
        frontier: What crosses the boundary.
    """

    def __init__(self, net: nn.Module, boundary: Boundary, frontier: Frontier) -> None:
        super().__init__()
        self.net = net
        self._frontier = frontier
        self._names = boundary.names

    def forward(self, activations: Tensor) -> Any:
        """Return what the network gives for the images of ``activations [N, ...]``."""
        frontier = self._frontier
        count = len(activations)
        given = frontier.unpack(activations)

        def answer(call: Call, compute: Any) -> Any:
            if call not in frontier.outputs:
                return compute()
            spec, leaves = frontier.outputs[call]
            return tree_unflatten([leaf.make(count, given) for leaf in leaves], spec)

        with intercepting(self.net, self._names, answer):
            return self.net(frontier.image.make(count, given))
