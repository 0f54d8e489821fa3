"""``siamkit data``: look at data before training on it."""

from __future__ import annotations

from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json, Root
from siamkit.errors import DataError

app = typer.Typer(help="Look at data before training on it.", add_completion=False)


@app.callback()
def data() -> None:
    """Look at data before training on it."""


@app.command()
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders; a table of images, pairs or triplets (.csv, .tsv, "
            ".parquet); LFW's pairs.txt; or 'sample'.",
        ),
    ],
    root: Root = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is held out.")] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Images or groups on both sides of a split are an error too."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Say what is in the data and what is wrong with it.

    Decodes every image, makes the splits that a run would make, and looks for images that are on
    two sides of them. Exits with 3 if the data cannot be used.
    """
    with heavy_imports():
        from siamkit import api

    report = api.check_data(data, root=root, seed=seed).to_json()
    if strict:
        kinds = {"leaks": "images", "torn_groups": "groups"}
        report["problems"] += [
            f"{len(report[key])} {what} are on two sides of a split (--strict)"
            for key, what in kinds.items()
            if report[key]
        ]
    if json:
        output.emit_json("data", report)
    else:
        from siamkit.report.data import data_report

        output.emit(data_report(report))
    if report["problems"]:
        raise typer.Exit(DataError.exit_code)
