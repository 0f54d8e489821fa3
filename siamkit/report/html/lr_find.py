"""The HTML page of ``siamkit lr-find``, and its chart, which a run's report shows too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.errors import ConfigError
from siamkit.files import write_atomic
from siamkit.report import lr_find as text
from siamkit.report import units
from siamkit.report.html.figures import BLUE, GREY, Cell, Chart, figure, rate_text, thinned
from siamkit.report.html.page import render
from siamkit.version import VERSION
from siamkit.words import readable

Json = Mapping[str, Any]

_ROWS = 25
_HINT = "free some space, or choose another file with -o"


def require_file(path: Path) -> None:
    """Check the path of a page.

    Raises:
        ConfigError: The path is that of a folder.
    """
    if path.is_dir():
        raise ConfigError(
            "is a folder", where=str(path), hint="give the path of a file, such as lr.html"
        )


def write_lr_page(found: Json, path: Path) -> Path:
    """Write the page of a search to a file, which is overwritten.

    Args:
        found: The result of ``siamkit.find_lr``.
        path: The file.

    Raises:
        ConfigError: The path is that of a folder.
        ResourceError: The file cannot be written.
    """
    require_file(path)
    chart = rate_search_chart(found)
    context = {
        "title": "No learning rate" if found["lr"] is None else f"Learning rate {found['lr']:g}",
        "lead": str(text.verdict(found)),
        "about": _about(found),
        "notices": found["notices"],
        "chart": chart,
        "thumbs": {},
        "items": [],
        "siamkit": VERSION,
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    page = render({chart.id: chart}, context, template="lr_find.html.j2")
    write_atomic(path, readable(page), _HINT)
    return path


def rate_search_chart(found: Json) -> Chart:
    """Return the chart of the loss by learning rate: each repeat, their mean, and the rate.

    Args:
        found: The result of ``siamkit.find_lr``, or the part of it that a run stores.
    """
    rates, mean, suggested = found["rates"], found["loss"], found["lr"]
    low, high = text.shown_range(mean)
    plot = figure(height=320)
    for number, losses in enumerate(found["losses"]):
        plot.add_scatter(
            x=rates[: len(losses) - 1], y=losses[1:], name="repeats", mode="lines",
            showlegend=number == 0, line={"color": GREY, "width": 1}, hoverinfo="skip",
        )  # fmt: skip
    plot.add_scatter(
        x=rates[: len(mean) - 1], y=mean[1:], name="mean, while all repeats run", mode="lines",
        line={"color": BLUE, "width": 2.5}, hovertemplate="rate %{x:.2g}: %{y:.4g}<extra></extra>",
    )  # fmt: skip
    plot.add_hline(y=mean[0], line={"color": GREY, "width": 1, "dash": "dot"})
    if suggested is not None:
        plot.add_vline(x=suggested, line={"color": BLUE, "width": 1.5, "dash": "dash"})
    plot.update_xaxes(type="log", title_text="learning rate", exponentformat="e", dtick=1)
    plot.update_yaxes(range=(low, high), title_text="loss")
    rows: list[tuple[Cell, ...]] = [
        (rate_text(rates[i]), f"{mean[i + 1]:.4g}") for i in thinned(len(mean) - 1, _ROWS)
    ]
    finding = f"{text.verdict(found)}. The dotted line is the loss before the first step" + (
        ", the dashed line the suggested rate." if suggested is not None else "."
    )
    return Chart("lr-find", "Loss by learning rate", finding, plot, ("rate", "mean loss"), rows)


def _about(found: Json) -> list[tuple[str, str]]:
    phase = found["phase"]
    stages = ", ".join(
        stage["name"] + ("" if stage["lr_mult"] == 1 else f" x {stage['lr_mult']:g}")
        for stage in phase["stages"]
    )
    return [
        ("tested", text.tested(found)),
        ("stages that train, with their multiples of the rate", stages),
        ("rates", f"{rate_text(found['lowest'])} to {rate_text(found['highest'])}"),
        ("time", units.duration(found["seconds"])),
    ]
