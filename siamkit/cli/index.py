"""``siamkit index``: builds an index of a gallery of images."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import completion
from siamkit.cli import output as out
from siamkit.cli.imports import api_of
from siamkit.cli.options import BatchSize, Device, Force, Json, Last, RunOrModel, Threads, Workers

Gallery = Annotated[
    Path,
    typer.Argument(
        metavar="GALLERY",
        help="A folder of images at any depth. The label of an image is its subfolder.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="INDEX",
        help="Write the index to this folder.",
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        metavar="exact|faiss|auto",
        autocompletion=completion.choices("exact", "faiss", "auto"),
        help="The kind of search. exact: compares with every image. faiss: approximate, faster. "
        "auto: faiss if exact search would be slow.",
    ),
]


def index(
    run: RunOrModel,
    gallery: Gallery,
    output: Output,
    kind: Kind = "exact",
    batch_size: BatchSize = 64,
    last: Last = False,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build an index of a gallery (a folder of images) for 'siamkit search'.

    If the command is interrupted, the same command continues its work.
    """
    api = api_of(run)
    from siamkit.report.progress import ImageProgress
    from siamkit.report.terminal import make_console

    with ImageProgress(make_console(sys.stderr), "index") as progress:
        result = api.build_index(
            run, gallery, output, which="last" if last else "best", kind=kind,
            batch_size=batch_size, device=device, workers=workers, force=force, progress=progress,
        )  # fmt: skip
    if json:
        out.emit_json("index", result)
        return
    from siamkit.report.deployment import indexed

    out.emit(indexed(result))
