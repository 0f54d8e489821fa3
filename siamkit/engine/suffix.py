"""The suffix: runs the part of a network after a boundary, without changing the network.

The network's own ``forward`` runs, but the modules of the prefix do not: a call of one returns its
stored output (the activations), or a placeholder if nothing after the boundary needs that output.
The forward's own operations (class tokens, position embeddings, reshapes) run as usual.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from siamkit.engine.blank import require_no_blank
from siamkit.engine.boundary import Boundary
from siamkit.engine.calls import Call, intercepting, targets_of
from siamkit.engine.frontier import Frontier


class Suffix(nn.Module):
    """Maps activations at a boundary to the network's output, with gradients.

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

    def forward(self, activations: Tensor) -> Any:
        """Return the network's output for the images of ``activations [N, ...]``.

        Raises:
            SuffixError: The forward needs more of the prefix than the activations hold.
        """
        frontier = self._frontier
        count = len(activations)
        given = frontier.unpack(activations)

        def answer(call: Call, compute: Any) -> Any:
            if call not in frontier.outputs:
                return compute()
            spec, leaves = frontier.outputs[call]
            return tree_unflatten([leaf.make(count, given) for leaf in leaves], spec)

        with intercepting(self.net, self._targets, answer):
            output = self.net(frontier.image.make(count, given))
        require_no_blank(output)
        return output
