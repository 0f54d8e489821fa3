"""``siamkit evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Device, Json, Last, Root, Run

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, or a table of images, pairs or triplets; its test split, "
        "or else its validation split, if it has any. Left out: the run's own test or else "
        "validation images.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws of pairs, folds and episodes.")]


def evaluate(
    run: Run,
    data: Data = None,
    root: Root = None,
    last: Last = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Evaluate a trained network: retrieval, verification and few-shot.

    Best on classes that neither trained nor chose the best epoch: say so with a test/ folder, or
    give other DATA.
    """
    with heavy_imports():
        from siamkit import api

    report = api.evaluate(
        run, data, root=root, which="last" if last else "best", seed=seed, device=device
    )
    if json:
        output.emit_json("evaluate", report)
        return
    from siamkit.report.evaluation import evaluation

    output.emit(evaluation(report))
