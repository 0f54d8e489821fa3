"""The writer of a run's report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.config import flat
from siamkit.errors import ConfigError, SiamkitError
from siamkit.files import write_atomic
from siamkit.portable.preprocessing import MAX_PIXELS
from siamkit.report.html import model
from siamkit.report.html.context import charts_of, context_of
from siamkit.report.html.gather import gather
from siamkit.report.html.page import render
from siamkit.report.html.thumbnails import thumbnails
from siamkit.runs.open import OpenRun
from siamkit.words import readable

NAME = "report.html"
_HINT = "free some space, or choose another file with -o"


def write_html(run: OpenRun, output: Path | None = None) -> dict[str, Any]:
    """Write the report of an open run; see :func:`siamkit.write_report`."""
    path = run.path / NAME if output is None else output
    if path.is_dir():
        raise ConfigError(
            "is a folder", where=str(path), hint="give the path of a file, such as report.html"
        )
    gathered = gather(run)
    charts = charts_of(gathered)
    thumbs: dict[int, str | None] = {}
    if gathered.held is not None and gathered.held.near is not None:
        wishes = model.thumbnail_wishes(gathered.held, gathered.map)
        thumbs = thumbnails(*wishes, gathered.held.held.preprocessing, _max_pixels(run))
    context = context_of(gathered, charts, thumbs, datetime.now(UTC))
    text = readable(render(charts, context))
    write_atomic(path, text, _HINT)
    return {
        "run_dir": str(run.path),
        "path": str(path),
        "bytes": len(text.encode()),
        "charts": list(charts),
        "part": gathered.held.held.part if gathered.held is not None else None,
        "notices": context["notices"],
    }


def _max_pixels(run: OpenRun) -> int:
    """Return the run's ``data.max_pixels``. The config is not resolved, so no plugin is needed."""
    try:
        value = dict(flat(run.dir.read_config())).get("data.max_pixels")
    except SiamkitError:  # the report has a notice about a damaged config
        value = None
    return value if isinstance(value, int) else MAX_PIXELS
