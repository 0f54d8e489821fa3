"""The tables of ``siamkit evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import cells, make_table, styled
from siamkit.words import plural, short_count

Json = Mapping[str, Any]

_COUNTS = ("queries", "left_out", "gallery", "classes", "chance")


def evaluation(report: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.evaluate``."""
    data = report["data"]
    known = report["tuples"]
    grouping = f"of {plural(report['classes'], 'class')}" if known is None else f"in {known}"
    parts: list[RenderableType] = [
        styled(f"{plural(report['images'], 'image')} {grouping}: {data['part']} of {data['path']}")
    ]
    if report["retrieval"]:
        parts += [Text(), *_retrieval(report["retrieval"])]
    if triplets := report["triplets"]:
        share = f"{triplets['accuracy']:.3f} of {plural(triplets['count'], 'triplet')}"
        parts += [Text(), styled(f"the positive is nearer than the negative in {share}")]
    if report["verification"]:
        parts += [Text(), *_verification(report["verification"])]
    if report["few_shot"]:
        parts += [Text(), _few_shot(report["few_shot"])]
    if report["notices"]:
        parts += [Text(), *(styled(f"note: {text}", "yellow") for text in report["notices"])]
    return Group(*parts)


def _retrieval(metrics: Json) -> list[RenderableType]:
    title = (
        f"retrieval: {plural(metrics['queries'], 'query')} among "
        f"{plural(metrics['gallery'], 'image')}"
    )
    if metrics["left_out"]:
        title += f" ({metrics['left_out']} without another image of their class left out)"
    table = make_table("metric", "value", "by chance", numbers=("value", "by chance"))
    for name, value in metrics.items():
        if name not in _COUNTS:
            table.add_row(*cells(name, f"{value:.3f}", f"{metrics['chance'][name]:.3f}"))
    return [styled(title, "bold"), table]


def _verification(metrics: Json) -> list[RenderableType]:
    which = "all pairs" if metrics["all_pairs"] else "a random sample"
    title = (
        f"verification: {short_count(metrics['same'])} same and "
        f"{short_count(metrics['different'])} different pairs ({which})"
    )
    table = make_table("metric", "value", "95 % interval", numbers=("value", "95 % interval"))
    for name, value in metrics.items():
        if name in ("auc", "eer") or (name.startswith("tar@") and value is not None):
            ends = metrics["intervals"].get(name)
            table.add_row(*cells(name, f"{value:.3f}", _interval(ends)))
    parts: list[RenderableType] = [styled(title, "bold"), table]
    if at := metrics["at_threshold"]:
        rates = (f"{name.upper()} {units.percent(at[name])}" for name in ("far", "frr"))
        errors = f"accuracy {at['accuracy']:.3f}, {', '.join(rates)}"
        parts.append(styled(f"at the run's threshold {at['threshold']:.4f}: {errors}"))
    if accuracy := metrics["accuracy"]:
        parts.append(
            styled(
                f"accuracy {accuracy['mean']:.3f} +- {accuracy['standard_error']:.3f} (standard "
                f"error) over {accuracy['folds']} folds; each fold uses the threshold of "
                "the other folds"
            )
        )
    return parts


def _interval(ends: Any) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _few_shot(rows: Any) -> Table:
    table = make_table("few-shot", "accuracy", "95 % interval", "by chance",
                       numbers=("accuracy", "95 % interval", "by chance"))  # fmt: skip
    for row in rows:
        low, high = row["accuracy"] - row["margin"], row["accuracy"] + row["margin"]
        table.add_row(
            *cells(
                f"{row['ways']}-way {row['shots']}-shot", f"{row['accuracy']:.3f}",
                _interval((low, high)), f"{row['chance']:.3f}",
            )
        )  # fmt: skip
    return table
