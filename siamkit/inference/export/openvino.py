"""OpenVINO: converts a captured network to the two files of OpenVINO's own format."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from siamkit.engine.kernels.quiet import quiet
from siamkit.files import writing
from siamkit.inference.export.capture import INPUT, OUTPUT
from siamkit.inference.export.untracked import untracked


def to_openvino(program: ExportedProgram) -> Any:
    """Return a captured network as an ``openvino.Model``.

    Args:
        program: The network, as :func:`.capture.capture` returns it.

    Raises:
        Exception: OpenVINO cannot convert the network.
    """
    with quiet(), untracked():
        model = import_module("openvino").convert_model(program)
    (source,), (result,) = model.inputs, model.outputs
    source.get_tensor().set_names({INPUT})
    result.get_tensor().set_names({OUTPUT})
    return model


def write_openvino(model: Any, path: Path) -> None:
    """Write an ``openvino.Model`` to ``path`` and to the ``.bin`` file beside it, in float32.

    Args:
        model: The model.
        path: The new ``.xml`` file.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    with writing(path), untracked():
        # By default, OpenVINO would store the weights in float16.
        import_module("openvino").save_model(model, path, compress_to_fp16=False)
