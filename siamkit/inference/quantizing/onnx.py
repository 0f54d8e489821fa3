"""The quantizer of ONNX files: ONNX Runtime's static quantization."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from siamkit.engine.kernels.quiet import quiet
from siamkit.inference.export.images import BATCH
from siamkit.inference.export.runners import Array, Runner, onnx_runner
from siamkit.inference.quantizing.ranges import Ranges, ranges_of
from siamkit.portable.sessions import onnx_session

# These only move values: they are quantized where their neighbours are.
_MOVING = {
    "Clip", "Flatten", "Gather", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}


class OnnxQuantizer:
    """A :class:`.quantizer.Quantizer` of an ONNX file.

    Args:
        model: The float32 file.
        images: ``[N, C, H, W]``, the prepared training images to calibrate on.
        place: A folder for temporary files.
        batch: The number of images that the file's network takes at once, at most.
        bits: The bits of a weight: 7, or 8 if every CPU that runs the network computes the sums
            exactly.
        threads: The threads that measure; None: as many as cores may be used.

    Raises:
        Exception: ONNX Runtime cannot optimise the file.
    """

    def __init__(
        self,
        model: Path,
        images: Array,
        place: Path,
        batch: int = BATCH,
        *,
        bits: int = 7,
        threads: int | None = None,
    ) -> None:
        self._images, self._place, self._batch = images, place, batch
        self._bits, self._threads = bits, threads
        registry = import_module("onnxruntime.quantization.registry")
        self._kinds = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
        with quiet():
            self._model = _named(_optimised(model, place / "optimised.onnx"))
        graph = self._model.graph
        known = set(self._kinds) - _MOVING
        nodes = [node for node in graph.node if node.op_type in known]
        weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
        self._layers = tuple(node.name for node in nodes)
        self._weightless = frozenset(n.name for n in nodes if not weights.intersection(n.input))

    @property
    def layers(self) -> Sequence[str]:
        """The names of the nodes that compute."""
        return self._layers

    @property
    def weightless(self) -> Collection[str]:
        """Those of the layers that hold no weights, such as additions and softmax."""
        return self._weightless

    @cached_property
    def ranges(self) -> Ranges:
        """The measured range of each activation."""
        return ranges_of(
            self._model, self._kinds, self._images, self._batch,
            lambda content: onnx_session(content, self._threads),
        )  # fmt: skip

    def quantized(self, floats: Collection[str]) -> Runner:
        """Return the network in int8, but with the layers ``floats`` in float32."""
        path = self._place / "int8.onnx"
        self.write(floats, path)
        return onnx_runner(path)

    def write(self, floats: Collection[str], path: Path) -> None:
        """Write that network to ``path``."""
        path.write_bytes(self.graph(floats))

    def graph(self, floats: Collection[str]) -> bytes:
        """Return that network as the content of an ONNX file."""
        q = import_module("onnxruntime.quantization")
        inner = import_module("onnxruntime.quantization.qdq_quantizer")
        limits = {
            name: tuple(np.array(value, np.float32) for value in pair)
            for name, pair in self.ranges.items()
        }
        measured = q.calibrate.TensorsData(q.CalibrationMethod.MinMax, limits)
        model = import_module("onnx").ModelProto()
        model.CopyFrom(self._model)  # it is changed in place
        _keep_float(model.graph, floats)
        with quiet():
            quantizer = inner.QDQQuantizer(
                model, True, self._bits < 8, q.QuantType.QInt8, q.QuantType.QUInt8, measured,
                [], sorted(floats), self._kinds, {},
            )  # fmt: skip
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        content: bytes = quantizer.model.model.SerializeToString()
        return content


def _optimised(model: Path, place: Path) -> Any:
    """Return an ONNX file with norms folded into convolutions, and the shapes of all tensors."""
    onnx = import_module("onnx")
    utils = import_module("onnxruntime.quantization.quant_utils")
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(place)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    made = onnx.shape_inference.infer_shapes(onnx.load(place))
    utils.add_infer_metadata(made)  # else, every quantization would infer them again
    return made


def _keep_float(graph: Any, floats: Collection[str]) -> None:
    """Keep the layers ``floats`` in float32 in every session.

    ONNX Runtime (1.32, ``WeightBiasQuantization``) quantizes the weights of a float32 layer between
    two quantized tensors, with one scale per tensor. It does not if another operation follows: a
    sum of one tensor, which costs nothing.
    """
    onnx = import_module("onnx")
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.name in floats and node.op_type in _WEIGHTED:
            result = node.output[0]
            node.output[0] = f"{result}_float32"
            same = onnx.helper.make_node("Sum", [node.output[0]], [result], f"{node.name}_float32")
            graph.node.insert(place + 1, same)


def _named(model: Any) -> Any:
    """Give the nodes of an ONNX model names of their own, and return it.

    ONNX Runtime leaves some that it fuses without one, and quantization tells nodes by their names.
    """
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(
                name for n in count(index) if (name := f"{node.op_type}_{n}") not in taken
            )
            taken.add(node.name)
    return model
