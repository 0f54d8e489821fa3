"""Folding: merges batch norms into the convolutions before them, in a captured graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from siamkit.model.device import float64_device

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)


def fold(graph: GraphModule) -> int:
    """Fold every batch norm that is the only user of a convolution; return how many were folded.

    The graph is changed in place. Afterwards, the weights of its convolutions are channels_last.
    Tensors that the graph shared with the network are not changed.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        if node.target is _aten.batch_norm.default and _follows_convolution(node):
            _fold_into_convolution(graph, node, folded)
            folded += 1
    _use_channels_last(graph)
    _drop_unread_tensors(graph)
    graph.recompile()
    return folded


def _follows_convolution(norm: Node) -> bool:
    convolution, *tensors = norm.args[:5]
    training = norm.args[5]
    return (
        isinstance(convolution, Node)
        and convolution.target in _CONVOLUTIONS
        and len(convolution.users) == 1
        and not training
        and all(map(_is_constant, [*tensors, *convolution.args[1:3]]))
    )


def _is_constant(argument: Any) -> bool:
    return argument is None or (isinstance(argument, Node) and argument.op == "get_attr")


def _fold_into_convolution(graph: GraphModule, norm: Node, index: int) -> None:
    args: Any = norm.args
    convolution, scale, shift, mean, variance, _, _, epsilon, *_ = args
    image, weight, *rest = convolution.args
    bias = rest.pop(0) if rest else None
    like = _read(graph, weight)
    # In float64, only the conversion back to the network's type rounds.
    new_weight, new_bias = fuse_conv_bn_weights(
        _double(graph, weight),
        _double(graph, bias),
        _double(graph, mean),
        _double(graph, variance),
        epsilon,
        _double(graph, scale),
        _double(graph, shift),
    )
    with graph.graph.inserting_before(convolution):
        constants = [
            _constant(graph, f"folded_{kind}{index}", tensor.detach().to(like))
            for kind, tensor in (("weight", new_weight), ("bias", new_bias))
        ]
    convolution.args = (image, *constants, *rest)
    norm.replace_all_uses_with(convolution)
    graph.graph.erase_node(norm)


def _use_channels_last(graph: GraphModule) -> None:
    """Give convolutions channels_last weights, so that no run has to reorder them."""
    converted: dict[str, Node] = {}
    for node in list(graph.graph.nodes):
        if node.target not in _CONVOLUTIONS or not _is_constant(node.args[1]):
            continue
        name = node.args[1].target
        weight = _read(graph, node.args[1])
        if weight.is_contiguous(memory_format=torch.channels_last):
            continue
        if name not in converted:
            laid_out = weight.contiguous(memory_format=torch.channels_last)
            with graph.graph.inserting_before(node.args[1]):
                converted[name] = _constant(graph, f"channels_last_{len(converted)}", laid_out)
        node.update_arg(1, converted[name])


def _drop_unread_tensors(graph: GraphModule) -> None:
    for node in reversed(graph.graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)
    read = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name, value in [*graph.named_parameters(), *graph.named_buffers(), *vars(graph).items()]:
        if isinstance(value, Tensor) and name not in read:
            delattr(graph, name)


def _constant(graph: GraphModule, name: str, tensor: Tensor) -> Node:
    graph.register_buffer(name, tensor)
    return graph.graph.get_attr(name)


def _read(graph: GraphModule, constant: Any) -> Tensor:
    tensor: Tensor = getattr(graph, constant.target)
    return tensor.detach()


def _double(graph: GraphModule, constant: Any) -> Any:
    if constant is None:
        return None
    tensor = _read(graph, constant)
    return tensor.to(float64_device(tensor.device)).double()
