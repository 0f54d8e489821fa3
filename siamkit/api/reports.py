"""The HTML report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siamkit.api.models import open_run
from siamkit.files import path_of


def write_report(run_dir: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Write the report of a run: one HTML file that needs no network connection.

    The report of an interrupted run says which parts are missing.

    Args:
        run_dir: The run's directory.
        output: The file, which is overwritten; None: ``report.html`` in the run's directory.

    Returns:
        ``run_dir``, ``path``, ``bytes``, ``charts`` (their names), ``part`` (the held-out images
        that the report shows: ``test``, ``val`` or None) and ``notices``.

    Raises:
        CheckpointError: There is no run.
        ConfigError: ``output`` is a folder.
        ResourceError: The file cannot be written.
    """
    from siamkit.report.html.write import write_html  # plotly takes a second to import

    target = None if output is None else path_of(output, "output", "a file")
    return write_html(open_run(run_dir), target)
