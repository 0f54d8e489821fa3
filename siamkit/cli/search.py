"""``siamkit search``: finds the most similar images of an index."""

from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import completion, output
from siamkit.cli.imports import api_of_index
from siamkit.cli.options import Device, Json, Threads

IndexFolder = Annotated[
    Path, typer.Argument(metavar="INDEX", help="An index folder written by 'siamkit index'.")
]
Query = Annotated[
    Path, typer.Argument(metavar="QUERY", help="An image, or a folder of images at any depth.")
]
K = Annotated[int, typer.Option("-k", min=1, help="Results per query.")]
OtherRun = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="The run or the exported model that built the index, if it has been moved.",
        autocompletion=completion.runs,
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact", help="Compare the query with every image, even if the index is approximate."
    ),
]


def search(
    index: IndexFolder,
    query: Query,
    k: K = 10,
    run: OtherRun = None,
    exact: Exact = False,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Find the images of an index that are most similar to a query image.

    Scores are cosine similarities; equal embeddings score 1.
    """
    api = api_of_index(index, run)
    result = api.search(index, query, k, run_dir=run, exact=exact, device=device)
    if json:
        output.emit_json("search", result)
        return
    from siamkit.report.deployment import searched

    output.emit(searched(result))
