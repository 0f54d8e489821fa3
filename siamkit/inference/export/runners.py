"""Runners: functions from prepared images to embeddings, one for each format.

A runner maps float32 images ``[N, C, H, W]`` to float32 embeddings ``[N, E]``, both numpy arrays.
All runners use as many threads as torch does, so that their speeds can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from siamkit.portable.untracked import untracked

Array = NDArray[np.float32]
Runner = Callable[[Array], Array]


def torch_runner(net: nn.Module) -> Runner:
    """Return a runner of a torch module on the CPU, which is put into eval mode."""
    net.eval()

    def run(images: Array) -> Array:
        with torch.no_grad():
            embeddings: Array = net(torch.from_numpy(images)).float().numpy()
        return embeddings

    return run


def onnx_runner(path: Path) -> Runner:
    """Return a runner of an ONNX file, by ONNX Runtime.

    Raises:
        Exception: ONNX Runtime cannot load the file.
    """
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(images: Array) -> Array:
        embeddings: Array = session.run(None, {name: images})[0]
        return embeddings

    return run


def openvino_runner(model: Any) -> Runner:
    """Return a runner of an ``openvino.Model`` or its ``.xml`` file, by OpenVINO on the CPU.

    Raises:
        Exception: OpenVINO cannot load the model.
    """
    with untracked():
        core = import_module("openvino").Core()
    how = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would compute in bfloat16
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", how)

    def run(images: Array) -> Array:
        return np.array(compiled(images)[0])  # a copy: the next call reuses the memory

    return run
