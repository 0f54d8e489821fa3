"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import completion, output
from siamkit.cli.cores import use

OUTPUT = "Output"
"""The help panel of the flags that change the printed output."""

DEVICES = "The device to compute on: auto, cpu, cuda, cuda:1 or mps."
"""The help text of ``--device``."""

DATA = (
    "A folder of class folders; a table of images, pairs or triplets (.csv, .tsv, .parquet); "
    "LFW's pairs.txt; or 'sample', the built-in images."
)
"""The help text of a DATA argument that takes every kind of data."""


ROOT = "Resolve a table's paths against DIR. Default: the table's folder."
"""The help text of ``--root``."""

PATH_COLUMN = "The table's column that holds the images' paths. Default: path."
"""The help text of ``--path-column``."""

LABEL_COLUMN = "The table's column that holds the images' classes. Default: label."
"""The help text of ``--label-column``."""


def _reserve_stdout(context: typer.Context, json: bool) -> bool:
    if json and not context.resilient_parsing:
        output.reserve_stdout()
    return json


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_reserve_stdout,
        help="Print the result, or the error, as one JSON object to stdout.",
        rich_help_panel=OUTPUT,
    ),
]
"""The ``--json`` flag, which every command has."""

Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The directory of a run.", autocompletion=completion.runs),
]
RunOrModel = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="The directory of a run, or of a model that 'siamkit export' wrote.",
        autocompletion=completion.runs,
    ),
]
Device = Annotated[
    str,
    typer.Option(help=DEVICES, autocompletion=completion.choices("auto", "cpu", "cuda", "mps")),
]
Last = Annotated[
    bool, typer.Option("--last", help="Use the network of the last epoch, not the best epoch's.")
]
Root = Annotated[Path | None, typer.Option(metavar="DIR", help=ROOT)]
PathColumn = Annotated[str | None, typer.Option(metavar="NAME", help=PATH_COLUMN)]
LabelColumn = Annotated[str | None, typer.Option(metavar="NAME", help=LABEL_COLUMN)]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per forward pass.")]
THREADS = "CPU threads to compute with. Default: as many as cores are free."
"""The help text of ``--threads``."""

Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, callback=use, help=THREADS),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode images. Default: depends on the cores and the images.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace existing output. Also discard the partial output of an interrupted command "
        "that used another run or other images.",
    ),
]
