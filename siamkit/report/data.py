"""The text of ``siamkit data check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.report.units import percent
from siamkit.words import plural

Json = Mapping[str, Any]

_SHOWN = 10
_PER_CLASS = {
    "smallest": "fewest per class", "median": "median per class", "largest": "most per class",
}  # fmt: skip


def data_report(report: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.check_data``."""
    parts: list[RenderableType] = [whole(styled(f"{report['kind']}: {report['where']}", "bold"))]
    parts += [styled(line) for line in _files(report)]
    if report["parts"]:
        parts += [Text(), styled(report["how"]), _parts(report["parts"])]
    parts += _listed("unreadable", [_unreadable(b) for b in report["unreadable"]])
    parts += _listed("groups in two splits", report["split_groups"])
    for key, title, apart in (
        ("leaks", "the same image in two splits", "part"),
        ("near_duplicates", "nearly the same image in two splits", "part"),
        ("conflicts", "the same image with two labels", "class"),
        ("copies", "the same image several times in one split", "part"),
    ):
        parts += _listed(title, [_group(group, apart) for group in report[key]])
    suspects = report["suspects"]
    parts += [] if suspects is None else _suspects(suspects)
    notices = [*report["notices"], *([] if suspects is None else suspects["notices"])]
    remarks = [("notice", "yellow", text) for text in notices]
    remarks += [("warning", "bold yellow", text) for text in report["warnings"]]
    remarks += [("problem", "bold red", text) for text in report["problems"]]
    if remarks:
        parts.append(Text())
    parts += [Text.assemble((f"{kind}: ", style), styled(text)) for kind, style, text in remarks]
    if not report["problems"]:
        parts += [Text(), styled("the data can be used", "bold green")]
    if report["output"]:
        parts.append(whole(f"contact sheet: {report['output']}"))
    return Group(*parts)


def _suspects(found: Json) -> list[RenderableType]:
    labels, twins = found["labels"], found["near_duplicates"]["pairs"]
    lines: list[RenderableType] = []
    if labels is not None:
        lines += _listed("suspicious labels", [_label(one) for one in labels["suspects"]])
        if labels["suspects"]:
            text = (
                f"about {percent(labels['precision'])} of them are wrong, and about "
                f"{percent(labels['share'])} of all labels, if wrong labels are random"
            )
            lines.append(styled(text))
        else:
            nothing = "no suspicious labels" if labels["share"] is not None else "labels: unknown"
            lines += [Text(), styled(nothing)]
    apart = sorted(twins, key=lambda pair: len(set(pair["classes"])), reverse=True)
    lines += _listed("near duplicates", [_twins(pair) for pair in apart])
    lines += _listed("classes that look like one", [
        f"{' and '.join(pair['classes'])}: {percent(pair['share'])} of the images look as much "
        "like the other class"
        for pair in found["alike"]
    ])  # fmt: skip
    lines += _listed("classes that look like two", [
        f"{some['class']}: {' and '.join(str(len(part)) for part in some['parts'])} images"
        for some in found["divided"]
    ])  # fmt: skip
    return lines


def _label(one: Json) -> str:
    opinion = {None: "", True: ", cleanlab agrees", False: ", cleanlab disagrees"}
    return f"{one['key']} ({one['class']}) looks like {one['suggested']}{opinion[one['cleanlab']]}"


def _twins(pair: Json) -> str:
    ends = " and ".join(
        f"{key} ({name})" for key, name in zip(pair["keys"], pair["classes"], strict=True)
    )
    return f"{ends}: {pair['score']:.3f}"


def _files(report: Json) -> list[str]:
    side = report["shorter_side"]
    kinds = f"{_counts(report['formats'])}; {_counts(report['modes'])}"
    lines = [f"{plural(report['files'], 'file')}: {kinds}"]
    if side:
        lines.append(
            f"shorter side {side['smallest']} to {side['largest']} px, median {side['median']:g}"
        )
    return lines


def _counts(counts: Json) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _parts(parts: Json) -> RenderableType:
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    heads = [_PER_CLASS.get(name, name) for name in names]
    table = make_table("split", *heads, numbers=tuple(heads))
    for part, counts in parts.items():
        table.add_row(styled(part, "bold"), *cells(*(_number(counts.get(name)) for name in names)))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _unreadable(bad: Json) -> str:
    row = "" if bad["row"] is None else f"row {bad['row']}: "
    return f"{row}{bad['path']}: {bad['problem']}"


def _group(group: Json, apart: str) -> str:
    """Return the text of a group: two images, that differ in ``apart`` if any do, and the rest."""
    first, *rest = group["members"]
    other = next((member for member in rest if member[apart] != first[apart]), rest[0])
    ends = " and ".join(f"{member['key']} ({member[apart]})" for member in (first, other))
    more = group["images"] - 2
    return ends + (f", and {plural(more, 'more image')}" if more else "")


def _listed(title: str, lines: Sequence[str]) -> list[RenderableType]:
    if not lines:
        return []
    more = len(lines) - _SHOWN
    shown = [*lines[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
    return [Text(), styled(f"{title}: {len(lines)}", "bold"), *(whole(f"  {x}") for x in shown)]
