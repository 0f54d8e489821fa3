"""The writer of a run's report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.api.models import open_run
from siamkit.errors import ConfigError
from siamkit.files import write_atomic
from siamkit.report.html import model
from siamkit.report.html.context import charts_of, context_of
from siamkit.report.html.gather import gather
from siamkit.report.html.page import render
from siamkit.report.html.thumbnails import thumbnails

NAME = "report.html"
_HINT = "make room, or choose another file with -o"


def write_report(run_dir: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Write the report of a run: one HTML file that opens without a network.

    A run that was interrupted has one too; the page says what is not there yet.

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
    run = open_run(run_dir)
    path = Path(output) if output is not None else run.path / NAME
    if path.is_dir():
        raise ConfigError(
            "is a folder", where=str(path), hint="give a file to write, such as a.html"
        )
    gathered = gather(run)
    charts = charts_of(gathered)
    thumbs: dict[int, str | None] = {}
    if gathered.held is not None and gathered.held.near is not None:
        thumbs = thumbnails(*model.thumbnail_wishes(gathered.held, gathered.map))
    context = context_of(gathered, charts, thumbs, datetime.now(UTC))
    text = render(charts, context)
    write_atomic(path, text, _HINT)
    return {
        "run_dir": str(run.path),
        "path": str(path),
        "bytes": len(text.encode()),
        "charts": list(charts),
        "part": gathered.held.held.part if gathered.held is not None else None,
        "notices": context["notices"],
    }
