"""``siamkit prune``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from siamkit.cli import completion, output
from siamkit.cli.flag_keys import flag_of
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json, Run, Threads

NewRun = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        "-o",
        metavar="NEW_RUN",
        help="Write the new run to this directory. Default: RUN-pruned.",
    ),
]
Ratio = Annotated[
    float,
    typer.Option(
        help="Share of the network's operations (FLOPs) to remove, between 0 and 1.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Epochs of fine-tuning after each round. Default: as many as the run has.",
    ),
]
Part = Annotated[
    str,
    typer.Option(
        metavar="all|trainable|frozen",
        autocompletion=completion.choices("all", "trainable", "frozen"),
        help="Layers that may lose channels: those that train in the fine-tuning, those that the "
        "freeze policy freezes, or all.",
    ),
]
Iterations = Annotated[
    int,
    typer.Option(min=1, help="Rounds of pruning and fine-tuning; more rounds prune more gently."),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--freeze-policy",
        help="The freeze policy of the fine-tuning: see 'siamkit list freeze-policies'. Default: "
        "the run's own.",
        autocompletion=completion.entries("freeze"),
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate of the fine-tuning. Default: the run's own."),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="The device to compute on: auto, cpu, cuda, cuda:1 or mps. Default: the run's own.",
        autocompletion=completion.choices("auto", "cpu", "cuda", "mps"),
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a configuration key of the fine-tuning, such as train.patience=3. Repeatable.",
        autocompletion=completion.assignments,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Log only errors.", rich_help_panel=OUTPUT),
]


def prune(
    run: Run,
    run_dir: NewRun = None,
    ratio: Ratio = 0.5,
    finetune_epochs: Epochs = None,
    part: Part = "all",
    iterations: Iterations = 1,
    freeze_policy: Policy = None,
    lr: Rate = None,
    device: Device = None,
    threads: Threads = None,
    set: Set = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make the network of a run smaller and faster, as a new run.

    The channels that matter least are removed, and the rest is fine-tuned. The embedding keeps its
    width. The new run can be evaluated, resumed and pruned like any other.
    """
    with heavy_imports(announced=not quiet, quiet=quiet):
        from siamkit import api
        from siamkit.api.pruning import pruned
    from siamkit.config import Layer, merge, parse_sets
    from siamkit.report.console import ConsoleListener
    from siamkit.report.pruning import pruning
    from siamkit.report.terminal import make_console

    values: dict[str, Any] = {}
    for section, key, value in (
        ("freeze", "name", freeze_policy), ("optimizer", "lr", lr), ("train", "device", device)
    ):  # fmt: skip
        if value is not None:
            values[section] = {key: value}
    changes = Layer(merge(parse_sets(set or []), values), flag_of)
    wanted: Any = part
    with ConsoleListener(make_console(sys.stderr)) as log:
        result = pruned(
            api.open_run(run), run_dir, changes, ratio=ratio, finetune_epochs=finetune_epochs,
            part=wanted, iterations=iterations, listeners=() if quiet else (log,),
            progress=_quiet if quiet else _told,
        )  # fmt: skip
    if json:
        output.emit_json("prune", result)
    else:
        output.emit(pruning(result))


def _quiet(step: str, done: int, total: int) -> None:
    """Show nothing."""


def _told(step: str, done: int, total: int) -> None:
    output.say(f"{step}: round {done + 1} of {total} ...")
