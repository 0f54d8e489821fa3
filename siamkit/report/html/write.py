"""Writing the report of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.errors import ConfigError
from siamkit.files import write_atomic
from siamkit.report.html import model
from siamkit.report.html.context import charts_of, context_of
from siamkit.report.html.gather import gather
from siamkit.report.html.page import render
from siamkit.report.html.thumbnails import thumbnails
from siamkit.runs.directory import RunDir

NAME = "report.html"
_HINT = "make room, or choose another file with -o"


def write_report(run_dir: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Write the report of a run: one HTML file that opens without a network.

    A run that was interrupted has one too; what is not there yet is told in its place.

    Args:
        run_dir: The run.
        output: The file; None for ``report.html`` in the run. An earlier one is replaced.

    Returns:
        ``run_dir``, ``path``, ``bytes``, ``charts`` (their names), ``part`` (the held-out images
        that it shows: ``test``, ``val`` or None) and ``notices``.

    Raises:
        CheckpointError: There is no run.
        ConfigError: ``output`` is a folder.
        ResourceError: The file cannot be written.
    """
    run = RunDir.open(Path(run_dir))
    path = Path(output) if output is not None else run.path / NAME
    if path.is_dir():
        raise ConfigError(
            "is a folder", where=str(path), hint="give a file to write, such as a.html"
        )
    found = gather(run)
    charts = charts_of(found)
    thumbs: dict[int, str | None] = {}
    if found.held is not None and found.held.near is not None:
        thumbs = thumbnails(*model.thumbnail_wishes(found.held, found.map))
    context = context_of(found, charts, thumbs, datetime.now(UTC))
    text = render(charts, context)
    write_atomic(path, text, _HINT)
    return {
        "run_dir": str(run.path),
        "path": str(path),
        "bytes": len(text.encode()),
        "charts": list(charts),
        "part": found.held.held.part if found.held is not None else None,
        "notices": context["notices"],
    }
