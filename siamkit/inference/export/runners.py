"""Runners: functions from prepared images to embeddings, one for each format.

A runner maps float32 images ``[N, C, H, W]`` to float32 embeddings ``[N, E]``, both numpy arrays.
Exported networks run as they do for their users, in the sessions of :mod:`siamkit.portable`. All
runners use as many threads as torch does, so that their speeds can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from siamkit.portable.sessions import onnx_network, openvino_model, openvino_network

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


def onnx_runner(path: Path, *, exact: bool = False) -> Runner:
    """Return a runner of an ONNX file.

    Args:
        path: The file.
        exact: See :func:`.sessions.onnx_network`.

    Raises:
        Exception: ONNX Runtime cannot load the file.
    """
    return onnx_network(path.read_bytes(), torch.get_num_threads(), exact=exact).run


def openvino_runner(model: Any) -> Runner:
    """Return a runner of an ``openvino.Model`` or its ``.xml`` file.

    Raises:
        Exception: OpenVINO cannot load the model.
    """
    if isinstance(model, Path):
        model = openvino_model(model.read_bytes(), model.with_suffix(".bin").read_bytes())
    return openvino_network(model, torch.get_num_threads()).run
