"""The ONNX Runtime kernel, for CPUs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from siamkit.engine.kernels.base import Kernel, KernelError, Precision
from siamkit.engine.kernels.quiet import quiet

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# The bytes of the largest protobuf message. A model in memory is one message.
_LARGEST_MODEL = 2**31 - 1


def missing(device: torch.device) -> str | None:
    """Return the reason why ONNX Runtime cannot be used here, or None."""
    if device.type != "cpu":
        return f"runs on a CPU only, but the network is on {device.type}"
    absent = [package for package in _PACKAGES if find_spec(package) is None]
    return f"{', '.join(absent)} not installed: pip install 'siamkit[onnx]'" if absent else None


class OnnxRuntimeKernel(Kernel):
    """The folded graph, exported in memory and run by ONNX Runtime with all its optimisations.

    Raises:
        KernelError: The model is too large.
        Exception: The exporter or the session failed.
    """

    name = "onnxruntime"

    def __init__(
        self, graph: GraphModule, example: Tensor, device: torch.device, precision: Precision
    ) -> None:
        super().__init__(len(example), device, precision)
        size = sum(t.nbytes for t in [*graph.parameters(), *graph.buffers()])
        if size > _LARGEST_MODEL:
            raise KernelError(f"the model has {size / 2**30:.1f} GiB, more than the allowed 2 GiB")
        self._session = _session(exported(graph, example))
        self._input = self._session.get_inputs()[0].name

    def _run(self, images: Tensor) -> Tensor:
        array = images.contiguous().numpy()
        return torch.from_numpy(self._session.run(None, {self._input: array})[0])


def exported(graph: GraphModule, example: Tensor) -> bytes:
    """Return a captured graph as an ONNX model with the input ``images``.

    Raises:
        Exception: The exporter failed.
    """
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            # The session optimises the model; optimising here too makes the export 50 % slower.
            graph, (example.contiguous(),), dynamo=True, verbose=False, optimize=False,
            input_names=["images"],
        )  # fmt: skip
        assert program is not None
        model: bytes = program.model_proto.SerializeToString()
    return model


def _session(model: bytes) -> Any:
    # Imported by name, because it has no type information.
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Waiting threads must not spin: image decoding needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
