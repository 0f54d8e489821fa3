"""The table of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        work: What was done.
        ours: siamkit's figure; less is better.
        other: The figure it is compared with.
        name: Whose that is, and how it was come by.
        unit: Of both.
        at_least: The bar, for ``other / ours``: so many times better.
        at_most: The bar, for ``ours / other``: no more than so many times as much.
        plus: What ``ours`` may be above ``at_most`` times ``other``, in ``unit``.
    """

    work: str
    ours: float
    other: float
    name: str
    unit: str = "s"
    at_least: float | None = None
    at_most: float | None = None
    plus: float = 0.0

    @property
    def ratio(self) -> float:
        """``ours / other`` where the bar is a most, else ``other / ours``."""
        return self.ours / self.other if self.at_most is not None else self.other / self.ours

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None where there is none, or the figures are mere noise."""
        if min(self.ours, self.other) <= 0:
            return None
        if self.at_most is not None:
            return self.ours <= self.at_most * self.other + self.plus
        return None if self.at_least is None else self.ratio >= self.at_least

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}x" + (f" + {self.plus:g} {self.unit}" if self.plus else "")
        return "" if self.at_least is None else f">= {self.at_least:g}x"


def markdown(rows: Sequence[Row], caption: str) -> str:
    """Return the table in Markdown, under its caption."""
    lines = [
        caption,
        "",
        "| work | compared with | bar | siamkit | other | ratio | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = {True: "met", False: "**missed**", None: ""}
    lines += [
        f"| {row.work} | {row.name} | {row.bar} | {_figure(row.ours)} {row.unit} "
        f"| {_figure(row.other)} {row.unit} | {row.ratio:.3g}x | {verdicts[row.passed]} |"
        for row in rows
    ]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
