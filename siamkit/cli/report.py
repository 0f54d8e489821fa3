"""``siamkit report``: writes the HTML report of a run."""

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json, Run
from siamkit.portable.signals import EXIT_CODE, Terminated

File = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the report to FILE. Default: RUN/report.html.",
    ),
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")]


def report(run: Run, file: File = None, open_: Open = False, json: Json = False) -> None:
    """Write the report of a run: one HTML file that needs no network connection.

    The report shows the training curves, the freeze plan, the time per epoch, verification and
    retrieval results, example images and a map of the embeddings. It also works for interrupted
    runs.
    """
    with heavy_imports():
        from siamkit.api.reports import write_report

    result = write_report(run, file)
    if open_:
        webbrowser.open(Path(result["path"]).resolve().as_uri())
    if json:
        output.emit_json("report", result)
        return
    from siamkit.report.terminal import whole

    for text in result["notices"]:
        output.notice(text)

    output.emit(whole(result["path"]))


def end_with_report(result: Mapping[str, Any], *, quiet: bool) -> int:
    """Write the report when training ends, and return the exit code.

    The run is complete without the report, so a failure only prints a notice, and the exit code is
    0. After SIGTERM, which asks the whole command to end, the exit code is 143.

    Args:
        result: The result of the training.
        quiet: Whether to leave out the path of the report. Notices are printed in any case.
    """
    retry = f"'siamkit report {result['run_dir']}' writes it"
    try:
        from siamkit.api.reports import write_report

        written = write_report(result["run_dir"])
    except Terminated:
        output.notice(f"the report was stopped by SIGTERM; {retry}")
        return EXIT_CODE
    except KeyboardInterrupt:
        output.notice(f"the report was interrupted; {retry}")
    except Exception as error:  # the run is complete without it
        what = f"{type(error).__name__}: {error}"
        output.notice(f"the report could not be written: {what}; {retry}")
    else:
        if not quiet:
            output.say(f"report: {written['path']}")
    return 0
