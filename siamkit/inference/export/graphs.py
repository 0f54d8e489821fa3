"""Graphs: exports a network to ONNX or OpenVINO, in float32 or int8, and measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.export import ExportedProgram

from siamkit.errors import SiamkitError
from siamkit.files import writing
from siamkit.inference.export.capture import capture, not_exportable
from siamkit.inference.export.checking import BATCHES, require_same, require_steady
from siamkit.inference.export.formats import INT8, Format
from siamkit.inference.export.images import BATCH
from siamkit.inference.export.measuring import TORCH, Key, bytes_of, measured, refitted, size_of
from siamkit.inference.export.onnx import write_onnx
from siamkit.inference.export.openvino import write_openvino
from siamkit.inference.export.runners import (
    Array,
    Runner,
    onnx_runner,
    openvino_runner,
    torch_runner,
)
from siamkit.inference.export.subject import Converted, Row, Subject
from siamkit.inference.export.thresholds import Threshold, for_int8
from siamkit.inference.quantizing.deciding import (
    calibration_images,
    choice_of,
    notices_on,
    require_quality,
)
from siamkit.inference.quantizing.onnx import OnnxQuantizer
from siamkit.inference.quantizing.openvino import OpenVinoQuantizer
from siamkit.inference.quantizing.quantizer import Quantizer
from siamkit.model.machine import this_machine
from siamkit.model.quantized import require_float
from siamkit.portable.sessions import needs_exact_sums
from siamkit.spelling import argument, setting


@dataclass(frozen=True)
class _Backend:
    """How a format is written, run and quantized.

    Attributes:
        write: Writes a captured network to a file, and perhaps to a second one beside it.
        run: Returns the runner of a written network.
        quantizer: Returns the quantizer of a written network, given calibration images and a folder
            for temporary files.
        weights: The name of the second file of a network, beside its main file; None without one.
    """

    write: Callable[[ExportedProgram, Path], None]
    run: Callable[[Path], Runner]
    quantizer: Callable[[Path, Array, Path], Quantizer]
    weights: str | None = None

    def size(self, model: Path) -> int:
        """Return the bytes of a written network."""
        return bytes_of(model, *(() if self.weights is None else (model.parent / self.weights,)))


_BACKENDS: Mapping[str, _Backend] = {
    "onnx": _Backend(write_onnx, onnx_runner, OnnxQuantizer),
    "openvino": _Backend(write_openvino, openvino_runner, OpenVinoQuantizer, "model.bin"),
}


def export_graph(subject: Subject, format: Format, folder: Path, *, int8: bool) -> Converted:
    """Write a network to a folder in a format that runs without torch, and measure it.

    Args:
        subject: The network and the images.
        format: ``onnx`` or ``openvino``.
        folder: The folder of the new files.
        int8: Whether to quantize.

    Raises:
        ConfigError: The network cannot be exported, or int8 costs too much quality.
        CheckpointError: The exported network computes something else than torch.
        DataError: An image cannot be decoded.
        ResourceError: The disk is full or not writable.
    """
    if int8 or format.name != "onnx":
        what = "cannot be quantized again" if int8 else f"cannot be exported to {format.name}"
        require_float(
            subject.net.quantized, what,
            f"{argument('format', 'onnx')} without {argument('quantize')} keeps the int8 part as "
            f"it is; or train without {setting('engine.prefix', 'int8')}",
        )  # fmt: skip
    backend = _BACKENDS[format.name]
    images = subject.val.cycled(BATCH)  # [32, C, H, W]
    model = folder / format.model
    if not int8:
        return _float32(subject, format, backend, images, model)
    # In the new folder, which is private until it is complete: the next writer finds what a killed
    # one leaves there.
    with TemporaryDirectory(dir=folder) as name:
        return _int8(subject, format, backend, images, model, Path(name))


def _float32(
    subject: Subject, format: Format, backend: _Backend, images: Array, model: Path
) -> Converted:
    reference = torch_runner(subject.net)
    runner, cosine = _written(subject, format, backend, images, model)
    key: Key = (format.name, "float32")
    found = measured(
        subject,
        {TORCH: reference, key: runner},
        {TORCH: size_of(subject.net), key: backend.size(model)},
        images,
    )
    record = subject.net.quantized
    notices = () if record is None else (f"as in the run, {record.part} is computed in int8",)
    threshold = Threshold(subject.calibration)
    return _converted(subject, key, format, found.rows, cosine, threshold, notices)


def _int8(
    subject: Subject, format: Format, backend: _Backend, images: Array, model: Path, place: Path
) -> Converted:
    plain = place / format.model
    runner, _ = _written(subject, format, backend, images, plain)
    calibration = calibration_images(subject)
    try:
        with writing(model):
            quantizer = backend.quantizer(plain, calibration, place)
            choice = choice_of(subject, quantizer, runner, calibration)
            quantizer.write(choice.floats, model)
    except SiamkitError:
        raise
    except Exception as error:  # the libraries raise exceptions of many types
        raise not_exportable(subject.net, "its graph cannot be quantized", error) from error
    reference, int8 = torch_runner(subject.net), backend.run(model)
    require_steady(int8, reference, images, f"{format.name} in int8")
    float32: Key = (format.name, "float32")
    key: Key = (format.name, INT8)
    found = measured(
        subject,
        {TORCH: reference, float32: runner, key: int8},
        {TORCH: size_of(subject.net), float32: backend.size(plain), key: backend.size(model)},
        images,
    )
    rows = found.rows
    require_quality(rows[1], rows[2], choice)
    threshold = for_int8(subject.calibration, found.embeddings[key], subject.val.images)
    if threshold.refitted and threshold.calibration is not None:
        value = threshold.calibration.threshold
        rows = (*rows[:2], refitted(rows[2], found.embeddings[key], subject, value))
    notices = notices_on(rows[1], rows[2], choice, this_machine())
    made = _converted(subject, key, format, rows, None, threshold, notices)
    return replace(made, floats=choice.floats, layers=choice.layers)


def _written(
    subject: Subject, format: Format, backend: _Backend, images: Array, model: Path
) -> tuple[Runner, float]:
    """Write a network in float32, and return its runner and its least cosine to torch."""
    subject.say(f"converts the network to {format.name}")
    program = capture(subject.net, torch.from_numpy(images[: max(BATCHES)]))
    record = subject.net.quantized
    try:
        if record is None:
            backend.write(program, model)
            runner = backend.run(model)
        else:  # of the formats, only ONNX can hold the run's own graph
            write_onnx(program, model, record.content(subject.net.backbone))
            runner = onnx_runner(model, exact=needs_exact_sums())
    except SiamkitError:
        raise
    except Exception as error:  # the libraries raise exceptions of many types
        what = f"its graph cannot be converted to {format.name}"
        raise not_exportable(subject.net, what, error) from error
    subject.say(f"compares {format.name} with torch in batches of {', '.join(map(str, BATCHES))}")
    return runner, require_same(runner, torch_runner(subject.net), images, format.name)


def _converted(
    subject: Subject,
    key: Key,
    format: Format,
    rows: tuple[Row, ...],
    cosine: float | None,
    threshold: Threshold,
    notices: tuple[str, ...] = (),
) -> Converted:
    if threshold.notice is not None:
        notices = (*notices, threshold.notice)
    return Converted(
        *key,
        model=format.model,
        width=subject.net.embedding_dim,
        normalized=subject.net.normalize,
        rows=rows,
        cosine=cosine,
        threshold=threshold,
        notices=notices,
    )
