"""The tables of ``siamkit inspect``: the network, and each phase with its costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siamkit.report import units
from siamkit.report.engine import engine_text
from siamkit.report.terminal import cells, make_table, styled
from siamkit.words import data_size, plural, short_count

Json = Mapping[str, Any]

_IN_PREFIX = {"all": "yes", "part": "part", "none": "no"}


def inspection(report: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.inspect``."""
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
         f"{plural(backbone['features'], 'feature')} from {height} x {width} px, "
         f"{plural(backbone['in_chans'], 'channel')}"),
        ("weights", backbone["weights"], None, ""),
        ("head", head["name"], None if head["computed"] else head["parameters"],
         "computed after each epoch" if head["computed"] else ""),
        ("embedding", plural(report["embedding"]["dim"], "dimension"), None, normalized),
        ("loss", loss["name"], loss["parameters"], ""),
        ("total", "", report["parameters"], ""),
    )  # fmt: skip
    for name, value, parameters, more in rows:
        amount = "" if parameters is None else short_count(parameters)
        grid.add_row(styled(name, "bold"), *cells(value, amount, more))
    grid.columns[2].justify = "right"
    return grid


def span(start: int, end: int) -> str:
    """Return ``epochs 1 to 3``, counted from 1, for the epochs ``[0, 3)``, counted from 0."""
    return f"epoch {end}" if end - start == 1 else f"epochs {start + 1} to {end}"


def _phase(phase: Json, index: int, phases: int) -> Table:
    title = f"phase {index + 1} of {phases}: {span(phase['first_epoch'] - 1, phase['last_epoch'])}"
    table = make_table(
        "stage", "params", "trainable", "frozen", "norm", "rate", "backward", "prefix",
        numbers=("params", "trainable", "frozen", "rate"), title=title,
    )  # fmt: skip
    for stage in phase["stages"]:
        trains = int(stage["trainable"])
        row = cells(
            stage["name"],
            short_count(stage["parameters"]),
            short_count(trains) if trains else "-",
            short_count(stage["frozen"]) if stage["frozen"] else "-",
            stage["norm"] or "-",
            _rate(stage) if trains else "-",
            "yes" if stage["needs_backward"] else "no",
            _IN_PREFIX[stage["in_prefix"]],
        )
        table.add_row(*row, style="green" if trains else "dim")
    return table


def _rate(stage: Json) -> str:
    """Return a stage's rate, or ``auto`` and its multiplier if a range test finds the rate."""
    if stage["lr"] is not None:
        return units.rate(stage["lr"])
    return "auto" if stage["lr_mult"] == 1 else f"auto x {stage['lr_mult']:g}"


def _footer(phase: Json, report: Json) -> Text:
    return styled(
        f"{short_count(phase['trainable_parameters'])} of {short_count(report['parameters'])} "
        f"parameters train ({units.percent(phase['trainable_share'])})\n"
        + "\n".join((_memory(phase["memory"], report), _prefix(phase), *_measured(phase)))
    )


def _memory(memory: Json | None, report: Json) -> str:
    """Return the line about the peak memory of a step."""
    if memory is None:
        return f"memory: not known, because loss {report['loss']['name']!r} cannot be tried alone"
    batch, size = report["batch_size"], memory["pass_size"]
    passes = "" if size >= batch else f" in passes of {size}"
    parts = ", ".join(
        f"{name} {data_size(memory[name])}"
        for name in ("weights", "gradients", "optimizer", "activations", "libraries")
        if memory[name]
    )
    cached = memory["peak_from_cache"]
    more = "" if cached is None else f"; from cached features {data_size(cached)}"
    return (
        f"predicted peak memory at batch size {batch}{passes}: {data_size(memory['peak'])} "
        f"({parts}){more}"
    )


def _prefix(phase: Json) -> str:
    """Return the lines about the frozen prefix and about the compute per image."""
    flops, boundary = phase["flops"], phase["boundary"]
    forward, backward = (f"{short_count(flops[name])}FLOPs" for name in ("forward", "backward"))
    if boundary is None:
        rejected = phase["rejected_boundaries"]
        where = f"none ({rejected[0]})" if rejected else "none"
    else:
        where = (
            f"up to {boundary['name']}, {units.percent(flops['prefix'] / flops['forward'])} of the "
            f"forward pass; its output takes {data_size(boundary['row_bytes'])} per image and "
            f"view ({boundary['dtype']})"
        )
    return f"frozen prefix: {where}\ncompute per image: {forward} forward, {backward} backward"


def _measured(phase: Json) -> list[str]:
    record = phase.get("measured")
    if record is None:
        return []
    lines = [f"measured: {engine_text(record)}"]
    if record["mode"] != "whole":
        others = ", ".join(
            f"{name} {units.milliseconds(seconds)}" for name, seconds in record["kernels"].items()
        )
        lines.append(
            f"time per image: {units.milliseconds(record['decode_seconds'])} to load, "
            f"{units.milliseconds(record['prefix_seconds'])} in the prefix"
            + (f" (kernels measured: {others})" if others else "")
            + f", {units.milliseconds(record['suffix_seconds'])} in the rest, including backward"
        )
    return lines


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
