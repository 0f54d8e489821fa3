"""The HTML page of a comparison: accuracy against cost, the table, the classes, the phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from siamkit.files import write_atomic
from siamkit.report import comparison as text
from siamkit.report import units
from siamkit.report.html.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    Cell,
    Chart,
    figure,
    label,
)
from siamkit.report.html.page import render
from siamkit.version import VERSION
from siamkit.words import plural, readable, short_count

Json = Mapping[str, Any]

_COLOURS = (ORANGE, GREEN, PINK, SKY, AMBER, GREY)
_SYMBOLS = ("square", "diamond", "x", "star")
_HINT = "free some space, and repeat the command: it trains nothing again"


def write_comparison_page(values: Json, path: Path) -> Path:
    """Write the page of a comparison to a file, which is overwritten.

    Args:
        values: The result of ``siamkit.compare``. If the comparison chose the recipe of a run,
            ``run`` is what the run records about it.
        path: The file.

    Raises:
        ResourceError: The file cannot be written.
    """
    charts = [cost_chart(values), difference_chart(values)]
    if values["classes"]:
        charts.append(class_chart(values))
    run = values.get("run")
    title = f"{values['best']!r} is the best of {plural(len(values['arms']), 'recipe')}"
    context = {
        "title": title if run is None else f"{run['best']!r} is the recipe of the run",
        "verdict": [*([] if run is None else [text.recipe_line(run)]), *values["verdict"]],
        "facts": text.facts(values),
        "about": _about(values),
        "notices": text.notes(values),
        "columns": text.columns(values),
        "rows": [text.cells_of(row) for row in values["arms"]],
        "phases": phases(values),
        "arm_charts": charts,
        "thumbs": {},
        "items": [],
        "siamkit": VERSION,
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    page = render({c.id: c for c in charts}, context, template="comparison.html.j2")
    write_atomic(path, readable(page), _HINT)
    return path


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the points that no other point beats in both cost and value, by rising cost.

    Args:
        points: The cost and the value of each point.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, kept = float("-inf"), []
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def cost_chart(values: Json) -> Chart:
    """Return the chart of accuracy against cost, with the frontier."""
    arms, metric = values["arms"], values["metric"]
    points = [(row["seconds"], row["value"]) for row in arms]
    front = frontier(points)
    plot = figure(height=360)
    plot.add_scatter(
        x=[points[i][0] for i in front], y=[points[i][1] for i in front], mode="lines",
        name="frontier", line={"color": GREY, "width": 1.5, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    for name, trains, colour, mark in (
        ("trained", True, BLUE, "circle"), ("not trained", False, ORANGE, "diamond")
    ):  # fmt: skip
        some = [row for row in arms if row["trains"] is trains]
        plot.add_scatter(
            x=[row["seconds"] for row in some], y=[row["value"] for row in some], name=name,
            mode="markers+text", text=[label(row["name"]) for row in some],
            textposition="top center", marker={"color": colour, "size": 10, "symbol": mark},
            error_y=_errors(some), hovertemplate="%{text}: %{y:.3f}, %{x:.3g} s<extra></extra>",
        )  # fmt: skip
    plot.update_xaxes(type="log", title_text="seconds per run, without shared features")
    plot.update_yaxes(title_text=metric)
    names = ", ".join(arms[i]["name"] for i in front)
    finding = (
        f"On the frontier, no other recipe is both cheaper and better: {names}. The bars are "
        "95 % intervals over classes and runs."
    )
    rows: list[tuple[Cell, ...]] = [
        (row["name"], f"{row['value']:.3f}", units.duration(row["seconds"])) for row in arms
    ]
    columns = ("recipe", metric, "time per run")
    return Chart("cost", "Accuracy against cost", finding, plot, columns, rows)


def _errors(rows: Sequence[Json]) -> dict[str, Any] | None:
    if any(row["interval"] is None for row in rows):
        return None
    return {
        "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": GREY,
        "array": [row["interval"][1] - row["value"] for row in rows],
        "arrayminus": [row["value"] - row["interval"][0] for row in rows],
    }  # fmt: skip


def difference_chart(values: Json) -> Chart:
    """Return the chart of the paired differences to the best recipe."""
    rows = [row for row in values["arms"] if row["to_best"] is not None]
    plot = figure(height=90 + 34 * len(rows))
    known = all(row["to_best"]["low"] is not None for row in rows)
    errors = {
        "type": "data", "thickness": 1.5, "width": 5, "color": GREY,
        "array": [(r["to_best"]["high"] - r["to_best"]["low"]) / 2 for r in rows],
    } if known else None  # fmt: skip
    plot.add_scatter(
        x=[row["to_best"]["value"] for row in rows], y=[label(row["name"]) for row in rows],
        mode="markers", marker={"color": BLUE, "size": 9}, error_x=errors, showlegend=False,
        name="difference", hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
    )  # fmt: skip
    plot.add_vline(x=0, line={"color": GREY, "width": 1})
    plot.update_yaxes(autorange="reversed", showgrid=False, type="category")
    plot.update_xaxes(title_text=f"{values['metric']} less that of {label(values['best'])}",
                      showgrid=True)  # fmt: skip
    table: list[tuple[Cell, ...]] = [
        (row["name"], text.cells_of(row)[4], "yes" if row["to_best"]["clear"] else "no")
        for row in rows
    ]
    finding = (
        "An interval that crosses the line cannot be told from the best recipe. The differences "
        "are paired: both recipes had the same classes, images and seeds."
    )
    return Chart(
        "differences", "Differences to the best recipe", finding, plot,
        ("recipe", "difference", "told apart"), table,
    )  # fmt: skip


def class_chart(values: Json) -> Chart:
    """Return the chart of the classes in which the recipes differ most."""
    classes = values["classes"]
    plot = figure(height=90 + 24 * len(classes))
    best = values["best"]
    others = [name for name in classes[0]["means"] if name != best]
    for number, name in enumerate((*others, best)):
        plot.add_scatter(
            x=[row["means"].get(name) for row in classes],
            y=[label(row["class"]) for row in classes],
            name=label(name), mode="markers",
            marker={
                "color": BLUE if name == best else _COLOURS[number % len(_COLOURS)],
                "size": 11 if name == best else 8,
                "symbol": "circle" if name == best else _SYMBOLS[number % len(_SYMBOLS)],
            },
            hovertemplate="%{y}: %{x:.2f}<extra>" + label(name) + "</extra>",
        )  # fmt: skip
    plot.update_yaxes(autorange="reversed", type="category")
    plot.update_xaxes(title_text=values["metric"], range=(-0.02, 1.02))
    names = list(classes[0]["means"])
    rows: list[tuple[Cell, ...]] = [
        (row["class"], row["queries"], *(f"{row['means'][name]:.2f}" for name in names))
        for row in classes
    ]
    finding = (
        "The classes in which the recipes differ most, weighted by their queries. Where every "
        "recipe is poor, look at the images and labels."
    )
    return Chart(
        "classes", "Classes in which the recipes differ", finding, plot,
        ("class", "queries", *names), rows,
    )  # fmt: skip


def phases(values: Json) -> list[tuple[Cell, ...]]:
    """Return the rows of the table of what each recipe trains: its phases and their stages."""
    rows: list[tuple[Cell, ...]] = []
    for arm in values["arms"]:
        for phase in arm["phases"] if arm["epochs"] else ():
            share = phase["trainable"] / phase["parameters"]
            rows.append(
                (
                    arm["name"],
                    f"from epoch {phase['first_epoch']}",
                    f"{short_count(phase['trainable'])} ({units.percent(share)})",
                    ", ".join(phase["stages"]),
                )
            )
    return rows


def _about(values: Json) -> list[tuple[str, str]]:
    return [
        ("compared", text.protocol(values)),
        ("folds", values["how"]),
        ("the best configuration", values["config"]),
    ]
