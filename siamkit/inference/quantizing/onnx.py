"""The quantizer of ONNX files: ONNX Runtime's static quantization, with QDQ nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from siamkit.engine.kernels.quiet import quiet
from siamkit.inference.export.capture import INPUT
from siamkit.inference.export.images import BATCH
from siamkit.inference.export.runners import Array, Runner, onnx_runner

# These only move values: they are quantized where their neighbours are.
_MOVING = {
    "Clip", "Flatten", "Gather", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


class OnnxQuantizer:
    """A :class:`.quantizer.Quantizer` of an ONNX file.

    Args:
        model: The float32 file.
        images: ``[N, C, H, W]``, the prepared training images to calibrate on.
        place: A folder for temporary files.
        batch: The number of images that the file's network takes at once, at most.

    Raises:
        Exception: ONNX Runtime cannot optimise the file.
    """

    def __init__(self, model: Path, images: Array, place: Path, batch: int = BATCH) -> None:
        self._images, self._place, self._batch = images, place, batch
        self._float = place / "optimised.onnx"
        self._ranges = place / "ranges.json"
        shapes = import_module("onnxruntime.quantization.shape_inference")
        with quiet():
            # Folds norms into convolutions. Symbolic shapes would need another package.
            shapes.quant_pre_process(model, self._float, skip_symbolic_shape=True)
        registry = import_module("onnxruntime.quantization.registry")
        known = {*registry.QLinearOpsRegistry, *registry.QDQRegistry} - _MOVING
        graph = _named(self._float)
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

    def quantized(self, floats: Collection[str]) -> Runner:
        """Return the network in int8, but with the layers ``floats`` in float32."""
        path = self._place / "int8.onnx"
        self.write(floats, path)
        return onnx_runner(path)

    def write(self, floats: Collection[str], path: Path) -> None:
        """Write that network to ``path``."""
        q = import_module("onnxruntime.quantization")
        with quiet():
            q.quantize_static(
                self._float, path, _reader(self._images, self._batch),
                quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                nodes_to_exclude=sorted(floats), calibration_cache_path=self._ranges,
            )  # fmt: skip


def _named(path: Path) -> Any:
    """Give the nodes of an ONNX file names of their own, and return its graph.

    ONNX Runtime leaves some that it fuses without one, and quantization tells nodes by their names.
    """
    onnx = import_module("onnx")
    model = onnx.load(path)
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(
                name for n in count(index) if (name := f"{node.op_type}_{n}") not in taken
            )
            taken.add(node.name)
    onnx.save(model, path)
    return model.graph


def _reader(images: Array, batch: int) -> Any:
    """Return ONNX Runtime's reader of calibration images."""

    class Reader(import_module("onnxruntime.quantization").CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._parts: Iterator[Array] = (
                images[start : start + batch] for start in range(0, len(images), batch)
            )

        def get_next(self) -> dict[str, Array] | None:
            part = next(self._parts, None)
            return None if part is None else {INPUT: part}

    return Reader()
