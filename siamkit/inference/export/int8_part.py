"""The int8 part of a network in an ONNX file: the run's own graph, in the place of one node."""

from __future__ import annotations

from importlib import import_module
from itertools import count
from typing import Any

import numpy as np
import torch

from siamkit.model.quantized import ROWS

_DOMAIN, _KIND = "siamkit", "Int8Part"


def translation() -> dict[Any, Any]:
    """Return how torch's exporter writes the operation of an int8 part: as one unknown node."""
    defs = import_module("onnx").defs
    if not defs.has(_KIND, domain=_DOMAIN):
        schema, kind = defs.OpSchema, "tensor(float)"
        ports = [schema.FormalParameter(name, kind) for name in ("images", "output")]
        defs.register_schema(schema(_KIND, _DOMAIN, 1, inputs=ports[:1], outputs=ports[1:]))
    opset = import_module("onnxscript").values.Opset(_DOMAIN, 1)

    def node(images: Any, graph: Any, digest: str, shape: Any) -> Any:
        return opset.Int8Part(images)

    return {torch.ops.siamkit.int8.default: node}


def opset_of(graph: bytes) -> int:
    """Return the version of ONNX's operations that the graph of an int8 part uses."""
    imports = import_module("onnx").load_from_string(graph).opset_import
    return int(next(one.version for one in imports if one.domain == ""))


def put_in(model: Any, graph: bytes) -> None:
    """Replace the node of an int8 part by its graph, in place.

    Args:
        model: The ``onnx.ModelProto`` of the network, with the node.
        graph: The graph of the part, for :data:`.quantized.ROWS` images. The file takes any number.
    """
    onnx = import_module("onnx")
    numbers = count()
    nodes = []
    for node in model.graph.node:
        if (node.domain, node.op_type) != (_DOMAIN, _KIND):
            nodes.append(node)
            continue
        part = onnx.compose.add_prefix(onnx.load_from_string(graph), f"int8_{next(numbers)}/")
        (source,), (result,) = part.graph.input, part.graph.output
        names = {source.name: node.input[0], result.name: node.output[0]}
        for inner in part.graph.node:
            inner.input[:] = [names.get(name, name) for name in inner.input]
            inner.output[:] = [names.get(name, name) for name in inner.output]
        _take_any_number(onnx, part.graph)
        nodes += part.graph.node
        model.graph.initializer.extend(part.graph.initializer)
        _import_too(model, part, {inner.domain for inner in part.graph.node})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [one for one in model.opset_import if one.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _take_any_number(onnx: Any, graph: Any) -> None:
    """Let a graph for :data:`.quantized.ROWS` images take any number of them.

    The number is a constant where rows are reshaped. Where torch pooled in another memory format,
    the graph picks all values of all images in their own order; that is a reshaping too.
    """
    constants = {one.name: one for one in graph.initializer}
    numbers = count()
    for node in graph.node:
        if node.op_type not in ("Reshape", "Gather") or node.input[1] not in constants:
            continue
        given = onnx.numpy_helper.to_array(constants[node.input[1]])
        shape = given if node.op_type == "Reshape" else np.array(given.shape)
        if len(shape) < 2 or shape[0] != ROWS or (shape < 1).any():
            continue
        if node.op_type == "Gather":
            if not np.array_equal(given.ravel(), np.arange(given.size)):
                continue
            node.op_type = "Reshape"
            del node.attribute[:]
        name = f"{node.input[1]}/any_{next(numbers)}"  # others may use the constant too
        anything = np.array([-1, *shape[1:]], np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(anything, name))
        node.input[1] = name


def _import_too(model: Any, part: Any, domains: set[str]) -> None:
    known = {one.domain for one in model.opset_import}
    model.opset_import.extend(
        one for one in part.opset_import if one.domain in domains and one.domain not in known
    )
