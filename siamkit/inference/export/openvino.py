"""OpenVINO: converts a captured network to the two files of OpenVINO's own format."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from siamkit.engine.kernels.quiet import quiet
from siamkit.files import writing
from siamkit.inference.export.capture import INPUT, OUTPUT
from siamkit.portable.untracked import untracked

_NUMBERED = re.compile(r"[A-Za-z0-9]+_[0-9]+")  # with a number that counts the process's operations


def write_openvino(program: ExportedProgram, path: Path) -> None:
    """Write a captured network in float32: the graph to ``path``, the weights to a ``.bin`` file.

    Args:
        program: The network, as :func:`.capture.capture` returns it.
        path: The new ``.xml`` file.

    Raises:
        ResourceError: The disk is full or not writable.
        Exception: OpenVINO cannot convert the network.
    """
    with quiet(), untracked():
        model = import_module("openvino").convert_model(program)
    (source,), (result,) = model.inputs, model.outputs
    source.get_tensor().set_names({INPUT})
    result.get_tensor().set_names({OUTPUT})
    example = next(iter(program.example_inputs[0]))  # [N, C, H, W]
    model.reshape({INPUT: [-1, *example.shape[1:]]})  # only the batch is dynamic
    save(model, path)


def save(model: Any, path: Path, kind: str = "float32") -> None:
    """Write an ``openvino.Model`` in its own precision.

    The same network always gives the same files, whatever the process did before. So the names of
    operations and of the model that OpenVINO numbers are replaced.

    Args:
        model: The model, whose names may change.
        path: The new ``.xml`` file.
        kind: The start of new names.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    model.set_friendly_name("model")
    for place, operation in enumerate(model.get_ordered_ops()):
        if _NUMBERED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(f"{kind}/{operation.get_type_name()}/{place}")
    with writing(path), untracked():
        # By default, OpenVINO would store the weights in float16.
        import_module("openvino").save_model(model, path, compress_to_fp16=False)
