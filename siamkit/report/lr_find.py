"""The printed form of ``siamkit lr-find``: the loss by learning rate as a chart, and the rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import styled, whole
from siamkit.words import plural, short_count

Json = Mapping[str, Any]

_WIDEST, _HEIGHT = 100, 15  # columns and lines of the chart
_BORDERS = str.maketrans("┌┐└┘─│", "++++-|")


def rate_report(report: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.find_lr``."""
    parts: list[RenderableType] = [styled(f"loss by learning rate, {tested(report)}", "bold")]
    parts += [RateChart(report), verdict(report)]
    if report["output"] is not None:
        parts.append(whole("chart: ", report["output"]))
    parts += [styled(f"note: {notice}", "yellow") for notice in report["notices"]]
    return Group(*parts)


def tested(report: Json) -> str:
    """Return what was tested: the phase, the steps and the repeats."""
    phase = report["phase"]
    first, last = phase["first_epoch"], phase["last_epoch"]
    epochs = f"epoch {last}" if first == last else f"epochs {first} to {last}"
    return (
        f"phase {phase['number']} of {phase['of']} ({epochs}, "
        f"{short_count(phase['trainable_parameters'])} parameters train), "
        f"{plural(report['repeats'], 'repeat')} of {plural(report['steps'], 'step')}"
    )


def verdict(report: Json) -> Text:
    """Return the suggested rate and its interval, or why there is none."""
    if report["lr"] is None:
        return Text.assemble(("no rate is suggested: ", "bold yellow"), styled(report["reason"]))
    return Text.assemble(
        ("suggested rate ", "bold"),
        (units.rate(report["lr"]), "bold green"),
        styled(f" ({spread(report)}): {report['reason']}"),
    )


def rate_line(found: Json) -> str:
    """Return the rate of a run whose rate was ``auto``, and how it was found."""
    phase = found["phase"]
    return (
        f"{units.rate(found['lr'])}, found by a range test under phase {phase['number']} "
        f"({spread(found)})"
    )


def spread(report: Json) -> str:
    """Return the rates that the repeats suggest, as text."""
    low, high = units.rate(report["low"]), units.rate(report["high"])
    count = plural(len(report["losses"]), "repeat")
    return f"all {count} agree" if low == high else f"{low} to {high} over {count}"


class RateChart:
    """A chart of the loss over the learning rate, drawn with characters.

    Args:
        report: The result of ``siamkit.find_lr``.
    """

    def __init__(self, report: Json) -> None:
        self._rates, self._losses = report["rates"], report["losses"]
        self._mean, self._suggested = report["loss"], report["lr"]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw the chart as wide as the console, at most 100 columns."""
        from uniplot import plot_to_string

        low, high = shown_range(self._mean)
        size = len(self._rates)
        text = plot_to_string(
            xs=[list(self._rates)] * len(self._losses),
            ys=[_shown(losses[1:], low, high, size) for losses in self._losses],
            x_as_log=True,
            x_gridlines=[] if self._suggested is None else [self._suggested],
            y_gridlines=[],
            y_min=low,
            y_max=high,
            lines=True,
            color=False,
            width=_WIDEST,
            height=_HEIGHT,
            line_length_hard_cap=min(options.max_width, _WIDEST),
            character_set="ascii" if options.ascii_only else "block",
        )
        yield Text(text.translate(_BORDERS) if options.ascii_only else text, no_wrap=True)


def _shown(losses: Sequence[float], low: float, high: float, size: int) -> list[float]:
    """Return a repeat's losses, clipped to [low, high], and NaN for rates that it did not reach."""
    return [min(max(loss, low), high) for loss in losses] + [math.nan] * (size - len(losses))


def shown_range(losses: Sequence[float]) -> tuple[float, float]:
    """Return the range (low, high) of losses to show. The steep rise at a test's end is cut off.

    Args:
        losses: The mean losses over the repeats, before the first step and at each rate.
    """
    known = [loss for loss in losses if math.isfinite(loss)]
    low, first = min(known), known[0]
    high = min(max(known), first + max(first - low, 0.05 * abs(first)))
    margin = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return low - margin, high + margin
