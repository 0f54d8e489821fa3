"""The quantizer of OpenVINO models: NNCF's post-training quantization."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from siamkit.engine.kernels.quiet import quiet
from siamkit.inference.export.openvino import save
from siamkit.inference.export.runners import Array, Runner, openvino_runner
from siamkit.portable.sessions import openvino_core
from siamkit.portable.untracked import untracked

_COMPUTING = {
    "Add", "AvgPool", "Convolution", "GroupConvolution", "MatMul", "Multiply", "MVN", "ReduceMean",
    "ScaledDotProductAttention", "Subtract",
}  # fmt: skip
# L2 normalization consists of these. In int8 it would make every embedding's length wrong.
_NORMALIZING = ["Divide", "Maximum", "NormalizeL2", "Power", "ReduceL2", "ReduceSum", "Sqrt"]
_ATTENTION = {"Softmax", "ScaledDotProductAttention"}


class OpenVinoQuantizer:
    """A :class:`.quantizer.Quantizer` of an OpenVINO model.

    Args:
        model: The float32 model's ``.xml`` file.
        images: ``[N, C, H, W]``, the prepared training images to calibrate on.
        place: Not used: NNCF needs no files.
    """

    def __init__(self, model: Path, images: Array, place: Path) -> None:
        self._model = openvino_core().read_model(model)
        self._images = images
        layers = [op for op in self._model.get_ordered_ops() if op.get_type_name() in _COMPUTING]
        self._layers = tuple(op.get_friendly_name() for op in layers)
        self._weightless = frozenset(
            op.get_friendly_name() for op in layers if not _has_weights(op)
        )
        kinds = {op.get_type_name() for op in self._model.get_ops()}
        self._attention = bool(kinds & _ATTENTION)

    @property
    def layers(self) -> Sequence[str]:
        """The names of the operations that compute."""
        return self._layers

    @property
    def weightless(self) -> Collection[str]:
        """Those of the layers that hold no weights, such as additions and softmax."""
        return self._weightless

    def quantized(self, floats: Collection[str]) -> Runner:
        """Return the network in int8, but with the layers ``floats`` in float32."""
        return openvino_runner(self._built(floats))

    def write(self, floats: Collection[str], path: Path) -> None:
        """Write that network to ``path``."""
        save(self._built(floats), path, "int8")

    def _built(self, floats: Collection[str]) -> Any:
        with quiet(), untracked(), _one_core():
            nncf = import_module("nncf")
            advanced = import_module("nncf.quantization.advanced_parameters")
            return nncf.quantize(
                self._model,
                nncf.Dataset([image[None] for image in self._images]),
                subset_size=len(self._images),
                target_device=nncf.TargetDevice.CPU,
                model_type=nncf.ModelType.TRANSFORMER if self._attention else None,
                ignored_scope=nncf.IgnoredScope(
                    names=sorted(floats), types=_NORMALIZING, validate=False
                ),
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    overflow_fix=advanced.OverflowFix.ENABLE
                ),
            )


def _has_weights(op: Any) -> bool:
    if op.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
        return False
    return bool(op.input_value(1).get_node().get_type_name() == "Constant")


@contextmanager
def _one_core() -> Iterator[None]:
    """Let NNCF use the process's one core; it would make several (see :func:`openvino_core`)."""
    package: Any = import_module("openvino")
    theirs, package.Core = package.Core, openvino_core
    try:
        yield
    finally:
        package.Core = theirs
