"""``siamkit data``: checks of the data before training."""

from __future__ import annotations

from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.group import App
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import DATA, Json, Root
from siamkit.errors import DataError
from siamkit.words import plural

app = App(help="Check data before training.", add_completion=False)


@app.callback()
def data() -> None:
    """Check data before training."""


@app.command()
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=DATA,
        ),
    ],
    root: Root = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of held-out classes.")] = 0,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Report images or groups in two splits as errors."),
    ] = False,
    json: Json = False,
) -> None:
    """Report the contents of the data and every problem with it.

    Decodes every image, makes the same splits as a run, and looks for images that are in two
    splits. The exit code is 3 if the data cannot be used.
    """
    with heavy_imports():
        from siamkit import api

    report = api.check_data(data, root=root, seed=seed).to_json()
    if strict:
        kinds = {"leaks": "image", "split_groups": "group"}
        report["problems"] += [
            f"{plural(len(report[key]), noun)} in two splits (--strict)"
            for key, noun in kinds.items()
            if report[key]
        ]
    if json:
        output.emit_json("data", report)
    else:
        from siamkit.report.data import data_report

        output.emit(data_report(report))
    if report["problems"]:
        raise typer.Exit(DataError.exit_code)
