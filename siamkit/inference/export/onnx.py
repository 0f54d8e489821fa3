"""ONNX: converts a captured network to a file that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from siamkit.engine.kernels.quiet import quiet
from siamkit.errors import ConfigError
from siamkit.files import writing
from siamkit.inference.export.capture import INPUT, OUTPUT
from siamkit.inference.export.int8_part import opset_of, put_in, translation
from siamkit.spelling import argument
from siamkit.words import plural

_LARGEST = 2**31 - 1  # bytes of a protobuf message, which an ONNX file is


def write_onnx(program: ExportedProgram, path: Path, int8: bytes | None = None) -> None:
    """Write a captured network as an ONNX file.

    The file holds no paths or source lines of this machine, which torch's exporter adds to it.

    Args:
        program: The network, as :func:`.capture.capture` returns it.
        path: The new file.
        int8: The graph of the network's int8 part; None if it has none.

    Raises:
        ConfigError: The network is larger than an ONNX file can be.
        ResourceError: The disk is full or not writable.
        Exception: torch cannot convert the network.
    """
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > _LARGEST:
        raise ConfigError(
            f"the network has {plural(size, 'byte')}, and an ONNX file may have {_LARGEST}",
            where=argument("format", "onnx"),
            hint=f"{argument('format', 'openvino')} has no such limit",
        )
    more: dict[str, Any] = {}
    if int8 is not None:
        more = {"custom_translation_table": translation(), "opset_version": opset_of(int8)}
    with quiet(), torch.no_grad():
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT], **more
        )
    assert converted is not None
    model = converted.model_proto
    if int8 is not None:
        put_in(model, int8)
    for node in [*model.graph.node, *(n for function in model.functions for n in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for owner in (model, model.graph):
        del owner.metadata_props[:]
        owner.doc_string = ""
    with writing(path):
        path.write_bytes(model.SerializeToString())
