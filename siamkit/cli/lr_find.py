"""``siamkit lr-find``: suggests a learning rate."""

from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json
from siamkit.cli.run_flags import RunFlags, run_flags

_TEST = "Range test"

PhaseNumber = Annotated[
    int | None,
    typer.Option(
        "--phase",
        metavar="N",
        help="The number of the phase to test, from 1. 'siamkit inspect' shows the phases: epochs "
        "in which the same stages train. The epochs before it are trained first. Default: 1.",
        rich_help_panel=_TEST,
    ),
]
Epoch = Annotated[
    int | None,
    typer.Option(
        "--epoch",
        metavar="N",
        help="Test the phase that contains this epoch, from 1. Use it instead of --phase.",
        rich_help_panel=_TEST,
    ),
]
Steps = Annotated[
    int, typer.Option("--steps", help="The number of rates to try.", rich_help_panel=_TEST)
]
From = Annotated[
    float, typer.Option("--from", metavar="RATE", help="The first rate.", rich_help_panel=_TEST)
]
To = Annotated[
    float, typer.Option("--to", metavar="RATE", help="The last rate.", rich_help_panel=_TEST)
]
File = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Also write the chart to this HTML file.",
        rich_help_panel=OUTPUT,
    ),
]


@run_flags
def lr_find(
    flags: RunFlags,
    phase: PhaseNumber = None,
    epoch: Epoch = None,
    steps: Steps = 100,
    lowest: From = 1e-7,
    highest: To = 10.0,
    file: File = None,
    json: Json = False,
) -> None:
    """Find a learning rate by a range test, without training a run.

    Takes the same flags as 'train', and tests the network, the data, the loss and the optimizer
    that 'train' would use. The rate rises from step to step, until the loss has fallen and rises
    again. The suggested rate is that of the head, for --lr of 'train'; '--lr auto' finds and uses
    it.
    """
    with heavy_imports(announced=True):
        from siamkit import api

    config = flags.load()
    with output.progress("step") as show:
        found = api.find_lr(
            config,
            phase=phase,
            epoch=epoch,
            steps=steps,
            lowest=lowest,
            highest=highest,
            output=file,
            progress=lambda done, total: show("range test", done, total),
        )
    if json:
        output.emit_json("lr-find", found)
        return
    from siamkit.report.lr_find import rate_report

    output.emit(rate_report(found))
