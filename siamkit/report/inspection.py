"""What ``siamkit inspect`` prints: the network, a table a phase, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import cells, make_table, styled

Json = Mapping[str, Any]


def inspection(report: Json) -> RenderableType:
    """Return the object of ``siamkit.api.inspect`` as something rich can print."""
    phases = report["phases"]
    parts: list[RenderableType] = [_header(report)]
    for index, phase in enumerate(phases):
        parts += [Text(), _phase(phase, index, len(phases)), _footer(phase, report)]
    if report["notices"]:
        parts += [Text(), *(styled(f"note: {notice}", "yellow") for notice in report["notices"])]
    if listing := report.get("parameters_list"):
        parts += [Text(), _parameters(listing, phases)]
    return Group(*parts)


def _header(report: Json) -> Table:
    backbone, head, loss = report["backbone"], report["head"], report["loss"]
    height, width = backbone["image_size"]
    normalized = "L2-normalised" if report["embedding"]["normalized"] else "not normalised"
    grid = Table.grid(padding=(0, 2))
    rows = (
        ("backbone", backbone["name"], backbone["parameters"],
         f"{backbone['features']} features of {height} x {width} px, "
         f"{backbone['in_chans']} channels"),
        ("weights", backbone["weights"], None, ""),
        ("head", head["name"], head["parameters"], ""),
        ("embedding", f"{report['embedding']['dim']} wide", None, normalized),
        ("loss", loss["name"], loss["parameters"], ""),
        ("total", "", report["parameters"], ""),
    )  # fmt: skip
    for name, value, parameters, more in rows:
        amount = "" if parameters is None else units.count(parameters)
        grid.add_row(styled(name, "bold"), *cells(value, amount, more))
    grid.columns[2].justify = "right"
    return grid


def span(start: int, end: int) -> str:
    """Return the epochs ``[start, end)`` in words, where the first epoch is 1."""
    return f"epoch {end}" if end - start == 1 else f"epochs {start + 1} to {end}"


def _phase(phase: Json, index: int, phases: int) -> Table:
    title = f"phase {index + 1} of {phases}: {span(phase['start_epoch'], phase['end_epoch'])}"
    table = make_table(
        "stage", "parameters", "trainable", "frozen", "norm", "rate", "backward",
        numbers=("parameters", "trainable", "frozen", "rate"), title=title,
    )  # fmt: skip
    for stage in phase["stages"]:
        trains = int(stage["trainable"])
        row = cells(
            stage["name"],
            units.count(stage["parameters"]),
            units.count(trains) if trains else "-",
            units.count(stage["frozen"]) if stage["frozen"] else "-",
            stage["norm"] or "-",
            units.rate(stage["lr"]) if trains else "-",
            "yes" if stage["needs_backward"] else "no",
        )
        table.add_row(*row, style="green" if trains else "dim")
    return table


def _footer(phase: Json, report: Json) -> Text:
    memory = phase["memory"]
    parts = ", ".join(
        f"{name} {units.size(memory[name])}"
        for name in ("weights", "gradients", "optimizer", "activations")
    )
    return styled(
        f"{units.count(phase['trainable_parameters'])} of {units.count(report['parameters'])} "
        f"parameters train ({units.percent(phase['trainable_share'])})\n"
        f"memory at batch {report['batch_size']}: {units.size(memory['total'])} ({parts})"
    )


def _parameters(listing: Sequence[Json], phases: Sequence[Json]) -> Table:
    heads = [f"phase {index + 1}" for index in range(len(phases))]
    table = make_table("parameter", "shape", "numel", "stage", *heads, numbers=("numel",))
    for parameter in listing:
        table.add_row(*_parameter_row(parameter))
    return table


def _parameter_row(parameter: Json) -> Iterator[Text]:
    shape = " x ".join(str(n) for n in parameter["shape"]) or "scalar"
    yield from cells(parameter["name"], shape, parameter["numel"], parameter["stage"])
    for trains in parameter["trainable"]:
        yield Text("train", "green") if trains else Text("frozen", "dim")
