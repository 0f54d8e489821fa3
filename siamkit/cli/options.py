"""The options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import output

OUTPUT = "Output"
"""The help panel of flags that change what is printed."""

DEVICES = "auto, cpu, cuda, cuda:1, mps."


def _reserve_stdout(context: typer.Context, json: bool) -> bool:
    if json and not context.resilient_parsing:
        output.reserve_stdout()
    return json


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_reserve_stdout,
        help="Print one JSON object on stdout, on errors too.",
        rich_help_panel=OUTPUT,
    ),
]
"""The ``--json`` flag, which every verb has."""

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")]
Device = Annotated[str, typer.Option(help=DEVICES)]
Last = Annotated[bool, typer.Option("--last", help="The last epoch's network, not the best one's.")]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder that a table's paths are relative to, if not its own."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that are loaded together.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that load images; left out: by the cores.", show_default=False
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace what is there, and drop unfinished work that does not fit."
    ),
]
