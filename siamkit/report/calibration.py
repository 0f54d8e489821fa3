"""The texts of ``siamkit calibrate`` and ``siamkit verify``, and the last line of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.plain import pair_list_text, verdict_lines
from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import plural, short_count

Json = Mapping[str, Any]

_TARGETS = {"eer": "equal error rate", "accuracy": "best accuracy"}


def calibration_line(values: Json) -> Text:
    """Return one line: the threshold, and the error rates that are predicted for it."""
    far, frr = (f"{name.upper()} {_rate(values[name])}" for name in ("far", "frr"))
    return styled(
        f"threshold {values['threshold']:.4f} ({_target(values)}); expected on the same number of "
        f"unseen identities (95 % prediction interval): {far}, {frr}"
    )


def calibration(values: Json, before: Json | None = None) -> RenderableType:
    """Return the printed form of a calibration.

    Args:
        values: The calibration.
        before: The calibration that ``values`` replaces; None if there was none.
    """
    about = values["provenance"]
    which = "all pairs" if about["all_pairs"] else "a random sample"
    head = (
        f"{short_count(about['same'])} same and {short_count(about['different'])} different pairs "
        f"({which}) from {plural(about['images'], 'image')} of "
        f"{plural(about['identities'], 'identity')}: "
        f"{about['part']} of {about['data']}"
    )
    table = make_table("at the threshold", "rate", "95 % prediction interval",
                       numbers=("rate", "95 % prediction interval"))  # fmt: skip
    for name, what in (("far", "false accepts (FAR)"), ("frr", "false rejects (FRR)")):
        rate = values[name]
        ends = units.percent_range(rate["low"], rate["high"])
        table.add_row(*cells(what, units.percent(rate["rate"]), ends))
    replaced = []
    if before is not None:
        old = f"{before['threshold']:.4f} ({_target(before)})"
        where = f"{before['provenance']['part']} of {before['provenance']['data']}"
        replaced = [styled(f"it replaces {old}, fitted on {where}")]
    return Group(
        styled(head),
        Text(),
        styled(f"threshold {values['threshold']:.4f} ({_target(values)})", "bold"),
        *replaced,
        table,
        Text(),
        styled("The interval predicts the rate on the same number of unseen identities."),
        *(styled(f"note: {text}", "yellow") for text in about["notices"]),
    )


def verdict(values: Json) -> RenderableType:
    """Return the printed verdict on one pair."""
    decision, numbers, prior, *notes = verdict_lines(values)
    return Group(
        styled(decision, "bold green" if values["same"] else "bold red"),
        styled(numbers),
        styled(prior, "dim"),
        *(styled(note, "yellow") for note in notes),
    )


def pair_list(values: Json) -> RenderableType:
    """Return the printed summary of the verdicts on a list of pairs."""
    return whole(pair_list_text(values))


def _target(values: Json) -> str:
    far = values["far_asked"]
    return _TARGETS.get(values["target"], f"FAR {far:g}" if far is not None else "")


def _rate(rate: Json) -> str:
    return f"{units.percent(rate['rate'])} ({units.percent_range(rate['low'], rate['high'])})"
