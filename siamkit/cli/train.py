"""``siamkit train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json, RunFlags, run_flags
from siamkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from siamkit.config import Layer

Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Go on with the run in this directory, as it was configured.",
        rich_help_panel="Data",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Log nothing but errors.", rich_help_panel=OUTPUT),
]


@run_flags
def train(flags: RunFlags, resume: Resume = None, quiet: Quiet = False, json: Json = False) -> None:
    """Train an embedding model.

    The run directory keeps the configuration, the log, the metrics, and the latest and best
    checkpoints.
    """
    result = _train(flags, resume, quiet)
    _report(result, quiet)
    if json:
        output.emit_json("train", result)
        return
    from siamkit.report.console import summary

    output.emit(summary(result))


def _train(flags: RunFlags, resume: Path | None, quiet: bool) -> Mapping[str, Any]:
    if resume is not None and (given := flags.given()):
        raise ConfigError(
            f"goes on with the run's own configuration and cannot be combined with "
            f"{', '.join(given)}",
            where="--resume",
            hint=f"'siamkit train --config {resume / 'config.yaml'}' starts a new run from it",
        )
    with heavy_imports():
        from siamkit import api
    from siamkit.report.console import ConsoleListener
    from siamkit.report.terminal import make_console

    if resume is None:
        layers = flags.layers()
        config = api.load_config(*layers)
        if not quiet and not _names_data(layers):
            output.notice(
                "no DATA given: training on 'sample', the built-in images; give a folder of class "
                "folders to train on your own"
            )
    with ConsoleListener(make_console(sys.stderr)) as log:
        listeners = () if quiet else (log,)
        if resume is not None:
            return api.resume(resume, listeners=listeners)
        return api.fit(config, listeners=listeners)


def _report(result: Mapping[str, Any], quiet: bool) -> None:
    """Write the run's report, if its configuration wants one."""
    from siamkit import api
    from siamkit.cli.report import end_with_report
    from siamkit.runs.directory import RunDir

    if api.load_config(RunDir(Path(result["run_dir"])).read_config()).report:
        end_with_report(result, quiet=quiet)


def _names_data(layers: Sequence[Layer]) -> bool:
    return any(layer.sets("data.path") for layer in layers)
