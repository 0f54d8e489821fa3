"""The compiled kernel: ``torch.compile``; on a CPU, with the weights frozen into the code."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from siamkit.engine.kernels.base import ModuleKernel, Precision
from siamkit.engine.kernels.quiet import quiet


def missing(device: torch.device) -> str | None:
    """Return the reason why the kernel cannot be compiled on this machine, or None."""
    if device.type not in ("cpu", "cuda"):
        return f"compiles for CPUs and CUDA devices only, but the network is on {device.type}"
    if device.type == "cuda":
        return None if find_spec("triton") else "triton is not installed"
    # The same default as torch's own setting.
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if sys.platform == "win32":
        compiler = os.environ.get("CXX", "cl")
    return None if shutil.which(compiler) else f"no C++ compiler found ({compiler})"


class InductorKernel(ModuleKernel):
    """The folded graph, compiled at its first run.

    On a CPU, torch's option ``freezing`` copies the weights into a layout for the machine, and does
    not change the network's weights. The code is specialised for the number of threads.
    """

    name = "inductor"

    def __init__(
        self, graph: GraphModule, batch_size: int, device: torch.device, precision: Precision
    ) -> None:
        frozen = {"freezing": True} if device.type == "cpu" else {}
        # dynamic=False: with a second prefix, dynamo would assume that shapes vary.
        compiled = torch.compile(graph, dynamic=False, options={**frozen})
        super().__init__(cast("nn.Module", compiled), batch_size, device, precision)
        self._is_compiled = False

    def _run(self, images: Tensor) -> Tensor:
        if self._is_compiled:
            return super()._run(images)
        with quiet():
            output = super()._run(images)
        self._is_compiled = True
        return output
