"""``siamkit embed``: writes embeddings to a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import output as out
from siamkit.cli.imports import api_of
from siamkit.cli.options import BatchSize, Device, Force, Json, Last, RunOrModel, Threads, Workers

Images = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="An image, or a folder of images at any depth.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="A .npy file for the embeddings, with the image paths in a .csv file of the same "
        "name; or a .parquet file for both.",
    ),
]


def embed(
    run: RunOrModel,
    images: Images,
    output: Output,
    batch_size: BatchSize = 64,
    last: Last = False,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the embeddings of images to a file.

    If the command is interrupted, the same command continues its work.
    """
    api = api_of(run)
    from siamkit.report.progress import ImageProgress
    from siamkit.report.terminal import make_console

    with ImageProgress(make_console(sys.stderr), "embed") as progress:
        result = api.embed(
            run, images, output, which="last" if last else "best", batch_size=batch_size,
            device=device, workers=workers, force=force, progress=progress,
        )  # fmt: skip
    if json:
        out.emit_json("embed", result)
        return
    from siamkit.report.deployment import embedded

    out.emit(embedded(result))
