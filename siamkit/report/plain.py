"""The sentences of `siamkit verify`, `embed` and `search`, which siamkit-runtime prints too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..words import plural
from . import units

Json = Mapping[str, Any]


def verdict_lines(values: Json) -> tuple[str, ...]:
    """Return lines on a pair: the verdict, its numbers, what the probability assumes, and notes."""
    score, threshold = apart(values["score"], values["threshold"])
    probability, _ = apart(values["probability"], 0.5)
    return (
        "same" if values["same"] else "different",
        f"score {score}, threshold {threshold}, probability {probability}",
        f"The probability holds {prior_text(values['prior'])}",
        *note_lines(values),
    )


def note_lines(values: Json) -> list[str]:
    """Return a line for each notice."""
    return [f"note: {text}" for text in values["notices"]]


def prior_text(prior: float) -> str:
    """Return the share of same pairs that a probability assumes, as the end of a sentence."""
    return (
        f"for data in which {units.percent(prior)} of the pairs are the same; there, the "
        "probability is 0.5 at the threshold."
    )


def pair_list_text(values: Json) -> str:
    """Return the summary of the verdicts on a list of pairs."""
    lines = [
        f"{plural(values['pairs'], 'pair')} of {plural(values['images'], 'image')}: "
        f"{values['accepted']} same, "
        f"{values['pairs'] - values['accepted']} different at threshold {values['threshold']:.4f}"
    ]
    if errors := values["errors"]:
        rates = [
            f"{name} {units.percent(errors[key])}"
            for name, key in (("accuracy", "accuracy"), ("FAR", "far"), ("FRR", "frr"))
            if errors[key] is not None
        ]
        kinds = f"{errors['same']} same and {errors['different']} different pairs"
        lines.append(f"compared with the labels of the list ({kinds}): {', '.join(rates)}")
    lines.append(f"The probabilities hold {prior_text(values['prior'])}")
    lines += note_lines(values)
    if values["out"]:
        lines.append(f"written to {values['out']}")
    return "\n".join(lines)


def apart(value: float, bound: float) -> tuple[str, str]:
    """Return two numbers as text, with enough digits to tell them apart."""
    for digits in range(4, 18):
        text, other = f"{value:.{digits}f}", f"{bound:.{digits}f}"
        if float(text) != float(other) or value == bound:
            return text, other
    return repr(value), repr(bound)


def embedded_text(result: Json) -> str:
    """Return what ``siamkit embed`` prints."""
    count = plural(result["images"], "embedding")
    text = f"{count} of {result['dim']} dimensions, float32: {result['output']}"
    if result["paths"] is not None:
        text += f"\nimage paths: {result['paths']}"
    return "\n".join([text, pace(result), *note_lines(result)])


def pace(result: Json) -> str:
    """Return how many images were embedded, and how fast."""
    new = result["images"] - result["resumed_at"]
    if not new or result["kernel"] is None:
        return "all images were embedded before"
    seconds = result["seconds"] - (result.get("build_seconds") or 0.0)
    rate = units.per_second(new / max(seconds, 1e-9))
    return (
        f"{plural(new, 'image')} embedded in {units.duration(seconds)} ({rate}, {result['kernel']})"
    )


def search_lines(result: Json) -> list[str]:
    """Return the first lines of what ``siamkit search`` prints."""
    how = f"{result['kind']} search among {plural(result['images'], 'image')}"
    if result["recall@10"] is not None:
        how += f"; recall@10 against exact search: {result['recall@10']:.3f}"
    return [how, *note_lines(result)]


NEIGHBOUR_COLUMNS = ("rank", "score", "label", "path")


def neighbour_cells(neighbour: Json) -> tuple[str, str, str, str]:
    """Return the table cells of one search result, in the order of :data:`NEIGHBOUR_COLUMNS`."""
    label, score = neighbour["label"], f"{neighbour['score']:.4f}"
    return str(neighbour["rank"]), score, "" if label is None else label, neighbour["path"]
