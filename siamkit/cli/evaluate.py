"""``siamkit evaluate``: measures a trained network."""

from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import api_of
from siamkit.cli.options import Device, Json, Last, Root, RunOrModel, Threads

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Other data, of any kind that 'siamkit train' takes. Its test split is used; without "
        "one, its validation split; without splits, all images. Default: the run's own test "
        "images; without any, its validation images. An exported model needs DATA.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random pairs, folds and episodes.")]


def evaluate(
    run: RunOrModel,
    data: Data = None,
    root: Root = None,
    last: Last = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Evaluate a trained network: retrieval, verification and few-shot.

    The figures are unbiased only on classes that neither training nor the choice of the best epoch
    used: add a test/ split, or pass DATA.
    """
    report = api_of(run).evaluate(
        run, data, root=root, which="last" if last else "best", seed=seed, device=device
    )
    if json:
        output.emit_json("evaluate", report)
        return
    from siamkit.report.evaluation import evaluation

    output.emit(evaluation(report))
