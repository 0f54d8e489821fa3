"""``siamkit report``."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")]
File = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write it. Left out: RUN/report.html.",
        show_default=False,
    ),
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Show it in the browser.")]


def report(run: Run, file: File = None, open_: Open = False, json: Json = False) -> None:
    """Write the report of a run: one HTML file to look at, without a network.

    Curves, the freeze plan, where the time went, verification, the nearest and the most confused
    images, and a map. A run that was interrupted has one too.
    """
    with heavy_imports():
        from siamkit.report.html.write import write_report

    result = write_report(run, file)
    if open_:
        webbrowser.open(Path(result["path"]).resolve().as_uri())
    if json:
        output.emit_json("report", result)
        return
    from siamkit.report.terminal import printable, styled

    for text in result["notices"]:
        output.notice(printable(text))

    output.emit(styled(result["path"]))


def end_with_report(result: Mapping[str, Any], *, quiet: bool) -> None:
    """Write the report at the end of a training; what goes wrong is a notice.

    Args:
        result: What training returned.
        quiet: Say nothing where all went well.
    """
    from siamkit.report.terminal import printable

    later = f"'siamkit report {result['run_dir']}' writes it"
    try:
        from siamkit.report.html.write import write_report

        written = write_report(result["run_dir"])
    except KeyboardInterrupt:
        output.notice(printable(f"no report, as it was interrupted; {later}"))
    except Exception as error:  # the run is complete without it
        what = f"{type(error).__name__}: {error}"
        output.notice(printable(f"the report could not be written: {what}; {later}"))
    else:
        if not quiet:
            print(printable(f"report: {written['path']}"), file=sys.stderr)
