"""``siamkit data``: checks of the data before training."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.group import App
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import DATA, Json, LabelColumn, PathColumn, Root
from siamkit.errors import DataError
from siamkit.words import plural

app = App(help="Check data before training.", add_completion=False)


@app.callback()
def data() -> None:
    """Check data before training."""


@app.command(
    examples=(
        "siamkit data check photos",
        "siamkit data check scans.csv --root scans --strict",
    ),
)
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=DATA,
        ),
    ],
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of held-out classes.")] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Treat an image or a group that is in two splits as an error."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Report the contents of the data and every problem with it.

    Decodes every image, makes the same splits as a run, and looks for images that are in two
    splits. The exit code is 3 if the data cannot be used.
    """
    with heavy_imports():
        from siamkit import api
    from siamkit.report.progress import ImageProgress
    from siamkit.report.terminal import make_console

    with ExitStack() as stack:
        bars: dict[str, ImageProgress] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                stack.close()  # the previous step's bar
                bars[step] = stack.enter_context(ImageProgress(make_console(sys.stderr), step))
            bars[step](done, total)

        report = api.check_data(
            data, root=root, path_column=path_column, label_column=label_column, seed=seed,
            progress=show,
        ).to_json()  # fmt: skip
    if strict:
        kinds = {
            "leaks": ("group of copies", "groups of copies"), "split_groups": ("group", "groups")
        }  # fmt: skip
        report["problems"] += [
            f"{plural(len(report[key]), *nouns)} in two splits (--strict)"
            for key, nouns in kinds.items()
            if report[key]
        ]
    if json:
        output.emit_json("data", report)
    else:
        from siamkit.report.data import data_report

        output.emit(data_report(report))
    if report["problems"]:
        raise typer.Exit(DataError.exit_code)
