"""The dependency graph of a network: finds the channels that must be removed together.

A channel that one layer writes is read by others, passes norm layers and depthwise convolutions,
and is added to the channels of other layers. torch-pruning draws the graph of these dependencies
from the autograd graph of one forward (Fang et al. 2023, https://arxiv.org/abs/2301.12900). It is
walked here, because torch-pruning's own walk does not end if the places of channels are inferred
wrongly, and some of its groups have places that a layer does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from siamkit.compress.groups import Group, Member, apart
from siamkit.compress.layers import Side, can_shrink, is_dense, width
from siamkit.errors import ConfigError
from siamkit.model.reading import stage_outputs


class _Place(NamedTuple):
    """A place on an axis, under the names that torch-pruning's index mappings use.

    Attributes:
        idx: The place.
        root_idx: The group's channel that it belongs to.
    """

    idx: int
    root_idx: int | None


def torch_pruning() -> Any:
    """Return the library.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import torch_pruning as library
    except ImportError:
        raise ConfigError(
            "pruning needs torch-pruning",
            where="prune",
            hint="pip install 'siamkit[prune]'",
        ) from None
    return library


def groups_of(backbone: nn.Module, images: Tensor, reads: Sequence[str] = ()) -> tuple[Group, ...]:
    """Return the groups of channels that may be pruned, as far as the graph tells.

    The width of the features is none of them, nor is what the head, attention or unknown layers
    read.

    Args:
        backbone: The backbone, in eval mode; its parameters need a gradient.
        images: A few images ``[N, C, H, W]`` to trace the forward with.
        reads: The modules whose outputs the head reads besides the features.

    Raises:
        Exception: torch-pruning cannot trace the network.
    """
    return apart(tuple(_Graph(backbone, images, reads).groups()))


class _Graph:
    def __init__(self, backbone: nn.Module, images: Tensor, reads: Sequence[str]) -> None:
        library = torch_pruning()
        self._types: Any = library.ops.OPTYPE
        with torch.enable_grad():
            self._graph: Any = library.DependencyGraph().build_dependency(
                backbone,
                example_inputs=images,
                forward_fn=partial(_read, reads),
                verbose=False,
            )
        self._names = {module: name for name, module in backbone.named_modules()}
        self._fixed = _attention(backbone)
        dense = [layer for layer in self._names if is_dense(layer)]
        # No axis of an operation between layers is wider than all layers side by side.
        self._limit = sum(width(d, "reads") + width(d, "writes") for d in dense)

    def groups(self) -> Iterator[Group]:
        seen: set[nn.Module] = set()
        for layer in list(self._graph.module2node):
            if layer not in self._names or not is_dense(layer) or layer in seen:
                continue
            members = self._walk(layer, seen)
            group = Group(self._names[layer], width(layer, "writes"), tuple(members or ()))
            reads = any(member.side == "reads" for member in group.members)
            if reads and group.size > 1 and group.is_even:
                yield group

    def _walk(self, layer: nn.Module, seen: set[nn.Module]) -> list[Member] | None:
        """Return all that depends on the channels a layer writes; None if they cannot be pruned.

        Args:
            layer: The layer.
            seen: Receives the layers that write the same channels.
        """
        handler = self._graph.get_pruner_of_module(layer).prune_out_channels
        start = [_Place(i, i) for i in range(width(layer, "writes"))]
        found: dict[tuple[Any, Any], dict[int, int]] = {}
        found[self._graph.module2node[layer], handler] = {i: i for i, _ in start}
        todo = [(self._graph.module2node[layer], handler, start)]
        while todo:
            node, handler, places = todo.pop()
            if not self._is_safe(node):
                return None
            if self._side(node, handler) == "writes":
                seen.add(node.module)
            for dependency in node.dependencies:
                if not dependency.is_triggered_by(handler):
                    continue
                target, reached = dependency.target, places
                for mapping in dependency.index_mapping:
                    reached = reached if mapping is None else mapping(reached)
                known = found.setdefault((target, dependency.handler), {})
                new = [place for place in reached if place.idx not in known]
                most = self._width(target, dependency.handler)
                for place in reached:
                    if place.root_idx is None or not 0 <= place.idx < most:
                        return None  # the places were inferred wrongly
                    if known.setdefault(place.idx, place.root_idx) != place.root_idx:
                        return None  # two channels depend on each other
                if new:
                    todo.append((target, dependency.handler, new))
        return [
            Member(self._names[node.module], side, tuple(known), tuple(known.values()))
            for (node, handler), known in found.items()
            if known and (side := self._side(node, handler)) is not None
        ]

    def _is_safe(self, node: Any) -> bool:
        """Return whether channels may be removed at a node."""
        if node.type in (self._types.OUTPUT, self._types.PARAMETER, self._types.CUSTOMIZED):
            return False  # the features' width, or a bare tensor whose axis is a guess
        name = self._names.get(node.module)
        if name is None or _is_scalar(node.module):
            return True
        return can_shrink(node.module) and name not in self._fixed

    def _side(self, node: Any, handler: Any) -> Side | None:
        """Return the side of a layer that a node stands for; None for any other operation."""
        if node.module not in self._names or _is_scalar(node.module):
            return None
        if not is_dense(node.module):
            return "through"
        return "writes" if self._graph.is_out_channel_pruning_fn(handler) else "reads"

    def _width(self, node: Any, handler: Any) -> int:
        side = self._side(node, handler) if self._is_safe(node) else None
        return self._limit if side is None else width(node.module, side)


def _read(reads: Sequence[str], backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    *outputs, features = stage_outputs(backbone, reads, images)
    # torch-pruning knows an output by an operation that nothing else uses.
    return (*(output * 1 for output in outputs), features)


def _is_scalar(layer: nn.Module) -> bool:
    """Return whether a layer has one value for all channels."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _attention(backbone: nn.Module) -> frozenset[str]:
    """Return the names of the modules in attention modules, whose heads fix their shapes."""
    outer = [
        name
        for name, module in backbone.named_modules()
        if hasattr(module, "num_heads") or isinstance(module, nn.MultiheadAttention)
    ]
    names = (name for name, _ in backbone.named_modules())
    return frozenset(
        n for n in names if any(n == o or n.startswith(f"{o}.") or not o for o in outer)
    )
