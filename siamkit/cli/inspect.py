"""``siamkit inspect``: shows the phases of a run without training."""

from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json
from siamkit.cli.run_flags import RunFlags, run_flags
from siamkit.errors import ConfigError

Parameters = Annotated[
    bool,
    typer.Option(
        "--parameters",
        help="List every parameter and the phases in which it trains.",
        rich_help_panel=OUTPUT,
    ),
]


Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Load weights and data, time each phase, and report how siamkit would run the "
        "phase, and why.",
        rich_help_panel=OUTPUT,
    ),
]


@run_flags
def inspect_(
    flags: RunFlags, parameters: Parameters = False, measure: Measure = False, json: Json = False
) -> None:
    """Show which stages would train in which epochs, and at what cost, without training.

    Takes the same flags as 'train'. DATA can also be the directory of a run.
    """
    with heavy_imports(announced=True):
        from siamkit import api

    run = _run_dir(flags)
    subject = flags.load() if run is None else run
    with output.progress() as show:
        report = api.inspect(subject, parameters=parameters, measure=measure, progress=show)
    if json:
        output.emit_json("inspect", report)
        return
    from siamkit.report.inspection import inspection

    output.emit(inspection(report))


def _run_dir(flags: RunFlags) -> Path | None:
    """Return DATA if it is the directory of a run.

    Raises:
        ConfigError: DATA is a run, and flags were given that would change its configuration.
    """
    from siamkit.runs.directory import RunDir

    run = Path(flags.data or "")
    if flags.data is None or not RunDir.is_run(run):
        return None
    if given := [name for name in flags.given() if name != "DATA"]:
        raise ConfigError(
            f"is the directory of a run, so it cannot be combined with {', '.join(given)}",
            where=flags.data,
            hint=f"'siamkit inspect --config {run / 'config.yaml'}' accepts flags",
        )
    return run
