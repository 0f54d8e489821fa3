"""The page that reports what the harness did and what happened: docs/reliability.md."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from records import Record

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_BLOCK = re.compile(r"(<!-- written by tests/faults -->\n).*?(<!-- end -->)", re.DOTALL)
KINDS = {
    "kill": ("SIGKILL", "Killed while", "kills"),
    "damage": ("Damage", "File", "damaged files"),
    "disk": ("Full disks", "What is on the full disk", "full disks"),
    "fuzz": ("Invented and damaged input", "Reader", "inputs"),
}


def write_page(records: Sequence[Record]) -> None:
    """Write the tables of ``records`` into the page."""
    text = PAGE.read_text()
    new, count = _BLOCK.subn(lambda m: f"{m[1]}\n{tables(records)}\n\n{m[2]}", text)
    assert count == 1
    PAGE.write_text(new)
    print(f"written: {PAGE}")


def tables(records: Sequence[Record]) -> str:
    """Return one table per kind of case: what was done and what happened, by group."""
    return "\n\n".join(_section(kind, [r for r in records if r.kind == kind]) for kind in KINDS)


def _section(kind: str, records: Sequence[Record]) -> str:
    title, first, counted = KINDS[kind]
    total = sum(record.count for record in records)
    wrong = sum(record.problem is not None for record in records)
    lines = [f"### {title}", "", f"{total} {counted} in {len(records)} cases; {wrong} wrong.", ""]
    both = kind == "kill"  # a case may have two kills, or none
    lines += [
        f"| {first} |{' cases |' * both} {counted} | what happened |",
        f"| --- |{' --- |' * both} --- | --- |",
    ]
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    for group, members in sorted(groups.items()):
        count = sum(record.count for record in members)
        happened = _happened(kind, members)
        cases = f" {len(members)} |" * both
        lines.append(f"| {group} |{cases} {count} | {happened} |")
    if kind == "kill":
        lines += ["", *_by_run(records)]
    examples = [record for record in records if record.problem is None][:3]
    if kind in ("kill", "damage", "disk") and examples:
        lines += ["", "For example:", ""]
        lines += [f"- {record.done}: {record.happened}." for record in examples]
    return "\n".join(lines)


def _by_run(records: Sequence[Record]) -> list[str]:
    """Return a table of the kills of each kind of run: its freeze policy and its cache."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        run, told, _ = record.done.partition(": killed ")
        policy, comma, cache = run.partition(", ")
        if told and comma:
            counts[policy][cache] += record.count
    lines = ["| Freeze policy | kills with cached features | kills with live features |"]
    lines += ["| --- | --- | --- |"]
    rows = sorted(counts.items())
    return [*lines, *(f"| {name} | {row['cached']} | {row['live']} |" for name, row in rows)]


def _happened(kind: str, records: Sequence[Record]) -> str:
    if kind == "fuzz":
        return "; ".join(record.happened for record in records)
    wrong = [record for record in records if record.problem is not None]
    fine = Counter(record.happened for record in records if record.problem is None)
    parts = [f"{what}: {number}" for what, number in fine.most_common()]
    return "; ".join([*parts, *(f"**wrong: {len(wrong)}**" for _ in wrong[:1])]).replace("|", "/")
