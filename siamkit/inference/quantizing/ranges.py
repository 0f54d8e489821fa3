"""The ranges of a network's activations, measured on images, from which int8 scales follow.

ONNX Runtime's own calibration switches its optimizations off and measures every tensor. This one
measures only what is quantized, with the optimizations on, in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from itertools import chain
from typing import Any

import numpy as np

from siamkit.errors import ConfigError
from siamkit.inference.export.runners import Array

Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest value of each tensor, by name."""

Session = Callable[[bytes], Any]
"""Opens a serialized network, and returns an ``onnxruntime.InferenceSession``."""

_CLIPPING = {"Relu", "Clip"}
_LOW, _HIGH = "ReduceMin", "ReduceMax"


def ranges_of(
    model: Any, kinds: Collection[str], images: Array, batch: int, open_: Session
) -> Ranges:
    """Return the range of each activation that may be quantized.

    What only ReLU reads is quantized to the range after ReLU: then the quantization clips as ReLU
    does, and no values are spent on what ReLU would remove.

    Args:
        model: An ``onnx.ModelProto`` with inferred shapes, one input and one output.
        kinds: The types of the nodes whose inputs and outputs may be quantized.
        images: ``[N, C, H, W]``; if N is no multiple of ``batch``, the first ones come again.
        batch: The number of images that the network takes at once.
        open_: Opens the network that measures.

    Raises:
        ConfigError: An activation is NaN or infinite.
    """
    graph = model.graph
    clipped = _clipped(graph)
    names = sorted(_activations(graph, kinds) - clipped.keys())
    session = open_(_measuring(model, names))
    results = [output.name for output in session.get_outputs()]
    source = session.get_inputs()[0].name
    wanted = [f"{name}_{kind}" for name in names for kind in (_LOW, _HIGH)]
    wanted = [name for name in wanted if name in results]
    rows = []
    for start in range(0, len(images), batch):
        part = images[np.arange(start, start + batch) % len(images)]
        rows.append(np.array(session.run(wanted, {source: part})).reshape(-1, 2))  # [T, 2]
    values = np.stack(rows)  # [B, T, 2]
    if not np.isfinite(values).all():
        bad = names[int(np.flatnonzero(~np.isfinite(values).all((0, 2)))[0])]
        raise ConfigError("an activation is NaN or infinite", where=bad)
    low, high = values[..., 0].min(0), values[..., 1].max(0)  # each [T]
    found = {name: (low[i], high[i]) for i, name in enumerate(names)}
    return {**found, **{name: found[after] for name, after in clipped.items() if after in found}}


def _activations(graph: Any, kinds: Collection[str]) -> set[str]:
    """Return the names of the float32 tensors that nodes of some types read or write."""
    float32 = import_module("onnx").TensorProto.FLOAT
    constants = {tensor.name for tensor in graph.initializer}
    known = {
        value.name
        for value in chain(graph.value_info, graph.input, graph.output)
        if value.type.tensor_type.elem_type == float32
    }
    touched = {
        n for node in graph.node if node.op_type in kinds for n in (*node.input, *node.output)
    }
    return (touched & known) - constants


def _clipped(graph: Any) -> dict[str, str]:
    """Return the tensors that one ReLU alone reads, with the name of its output."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    return {
        name: nodes[0].output[0]
        for name, nodes in readers.items()
        if len(nodes) == 1
        and nodes[0].op_type in _CLIPPING
        and nodes[0].input[0] == name
        and name not in outputs
    }


def _measuring(model: Any, names: Collection[str]) -> bytes:
    """Return a network that also returns the least and the largest value of some tensors."""
    onnx = import_module("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for name in names:
        for kind in (_LOW, _HIGH):
            result = f"{name}_{kind}"
            made.graph.node.append(onnx.helper.make_node(kind, [name], [result], keepdims=0))
            info = onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [])
            made.graph.output.append(info)
    content: bytes = made.SerializeToString()
    return content
