"""``siamkit export``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from siamkit.cli import completion
from siamkit.cli import output as out
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json, Run, Threads

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write the exported model to this folder.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        metavar="onnx|openvino|torch|timm",
        autocompletion=completion.choices("onnx", "openvino", "torch", "timm"),
        help="onnx: for ONNX Runtime. openvino: for OpenVINO. torch: tensors and a config, for "
        "siamkit. timm: the same, and plain timm loads the backbone too.",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="int8",
        autocompletion=completion.choices("int8"),
        help="Store and compute in 8 bits, calibrated on training images. Layers that cost quality "
        "stay in float32. Only for onnx and openvino. Default: float32.",
    ),
]
License = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The licence of the weights, for the card, such as apache-2.0.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the choice of calibration images.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace an exported model in DIR.")]


def export(
    run: Run,
    output: Output,
    format: Format = "onnx",
    quantize: Quantize = None,
    license: License = None,
    seed: Seed = 0,
    threads: Threads = None,
    force: Replace = False,
    json: Json = False,
) -> None:
    """Export a trained network to run it without the run, and mostly without PyTorch.

    The folder holds the network, its preprocessing and threshold, and a card. The exported network
    is compared with the run's, and its quality, size and speed are measured on the run's images.
    """
    with heavy_imports():
        from siamkit import api

    wanted: Any = format
    into: Any = quantize
    result = api.export(
        run, output, format=wanted, quantize=into, license=license, seed=seed, force=force,
        progress=out.say,
    )  # fmt: skip
    if json:
        out.emit_json("export", result)
        return
    from siamkit.report.export import exported

    out.emit(exported(result))
