"""The printed form of a comparison: a table of arms, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report import units
from siamkit.report.terminal import make_table, styled, whole
from siamkit.words import plural

Json = Mapping[str, Any]

COLUMNS = ("arm", "runs", "metric", "95 % interval", "to the best", "time per run", "best epoch")
"""The columns of the table. The third one is named after the metric."""

_WHY = {
    "hopeless": "clearly worse",
    "budget": "budget too short",
    "failed": "failed",
}


def comparison(values: Json) -> RenderableType:
    """Return the printed form of the result of ``siamkit.compare``."""
    names = columns(values)
    table = make_table(*names, numbers=names[1:])
    for row in values["arms"]:
        style = "bold green" if row["name"] == values["best"] else ""
        table.add_row(*(styled(cell, style) for cell in cells_of(row)))
    parts: list[RenderableType] = [styled(protocol(values)), Text(), table, Text()]
    parts += [styled(sentence) for sentence in values["verdict"]]
    parts += [styled(text) for text in facts(values)]
    parts += [
        Text(),
        whole("report: ", values["report"]),
        whole("best configuration: ", values["config"]),
        *(styled(f"note: {notice}", "yellow") for notice in notes(values)),
    ]
    return Group(*parts)


def columns(values: Json) -> tuple[str, ...]:
    """Return the heads of the table's columns."""
    return tuple(values["metric"] if column == "metric" else column for column in COLUMNS)


def cells_of(row: Json) -> tuple[str, ...]:
    """Return the cells of an arm's row."""
    low_high = row["interval"]
    epochs = sorted(set(row["best_epochs"]))
    spread = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    runs = str(row["runs"])
    if row["stopped"] is not None:
        runs += f" ({_WHY[row['stopped']['why']]})"
    return (
        row["name"],
        runs,
        f"{row['value']:.3f}",
        "" if low_high is None else f"{low_high[0]:.3f} to {low_high[1]:.3f}",
        _to_best(row["to_best"]),
        units.duration(row["seconds"]),
        f"{spread} of {row['epochs']:g}" if row["epochs"] else "",
    )


def _to_best(found: Json | None) -> str:
    if found is None:
        return ""
    value = f"{found['value']:+.3f}"
    if found["low"] is None:
        return value
    return f"{value} ± {(found['high'] - found['low']) / 2:.3f}"


def protocol(values: Json) -> str:
    """Return how the arms were compared, as a sentence."""
    parts = f"{plural(values['folds'], 'fold')} x {plural(len(values['seeds']), 'seed')}"
    done = f"{values['rounds']} of {plural(values['of'], 'run')} per arm ({parts})"
    text = (
        f"{values['metric']} on {values['held_out']}, {done}; in each run, all arms have the same "
        f"seed and the same images{_equal(values)}"
    )
    for key, tried in values["tuned"].items():
        among = ", ".join(map(str, tried))
        text += f"; {key} is chosen among {among} on validation images"
    return text


def _equal(values: Json) -> str:
    """Return what all arms get equally much of, if they do."""
    if values["equal"] == "time":
        return ", and take about equally long"
    lengths = {row["epochs"] for row in values["arms"] if row["trains"]}
    same = len(lengths) <= 1 and "train.epochs" not in values["tuned"]
    return ", and train for equally many epochs" if same else ""


def notes(values: Json) -> list[str]:
    """Return the notices about the data and those of the trained arms; what all say, once."""
    trained = [row for row in values["arms"] if row["trains"]]
    shared, own = [], []
    for row in trained:
        for text in row["notices"]:
            if len(trained) == 1 or not all(text in other["notices"] for other in trained):
                own.append(f"{row['name']}: {text}")
            elif row is trained[0]:
                shared.append(f"all arms: {text}")
    return [*values["notices"], *shared, *own]


def facts(values: Json) -> list[str]:
    """Return sentences about the time, the budget and the arms that failed."""
    total, shared = (units.duration(values[key]) for key in ("seconds", "features_seconds"))
    texts = [
        f"All runs took {total}, of which {shared} were for features that the arms share. "
        "The time per run is without these."
    ]
    if values["over_budget"]:
        texts.append(
            f"The budget of {units.duration(values['budget'])} ended the comparison after "
            f"{plural(values['rounds'], 'run')} per arm."
        )
    texts += [
        f"{failed['name']!r} failed in run {failed['round']}: {failed['why']}"
        for failed in values["failed"]
    ]
    return texts


def told(step: Any) -> str:
    """Return a line about a run of a comparison: before it, after it, or while others train it.

    Args:
        step: The :class:`siamkit.comparison.work.Step`.
    """
    where = f"run {step.round} of {step.rounds}: {step.arm}"
    if step.waiting:
        return f"{where}: waits for another process, which trains it ..."
    if step.result is None:
        left = "" if step.ahead is None else f", about {units.duration(step.ahead)} left"
        return f"{where} ...{left}"
    if step.result.failed is not None:
        return f"{where} failed and is left out: {step.result.failed}"
    shown = ", ".join(f"{name} {value:.3f}" for name, value in step.means.items())
    return f"{where}: {shown} ({units.duration(step.result.seconds + step.result.filling)})"


def told_recipe(outlook: Any) -> str:
    """Return a line about the choice of a recipe, before it begins.

    Args:
        outlook: The :class:`siamkit.comparison.outlook.Outlook`.
    """
    whole = units.duration(outlook.budget)
    if outlook.arms is None:
        return f"recipe: measures how long a step takes; the budget is {whole} ..."
    if outlook.arms:
        what = (
            f"compares {plural(outlook.arms, 'recipe')} on the training classes, then trains with"
        )
        what += " the best one"
    elif outlook.trained is None:
        what = "the budget is too short for a training, so the head in closed form is kept"
    else:
        why = "there is no other" if outlook.of == 1 else "the budget is too short to compare two"
        what = f"trains {outlook.trained!r} without trials, because {why}"
    text = f"recipe: {what}; all of it takes about {units.duration(outlook.expected)}"
    return text if outlook.expected <= outlook.budget else f"{text}, more than the budget"


def recipe_line(found: Json) -> str:
    """Return how the recipe of a run was chosen, as a phrase."""
    arms = plural(sum(row["open"] for row in found["arms"]), "recipe")
    best = next((row for row in found["arms"] if row["name"] == found["best"]), None)
    if best is None:
        how = "trained without trials" if "epochs" in found else "not trained"
        return f"{found['best']}: {how}"
    if found["start"] is not None:
        (start,) = (row for row in found["arms"] if row["name"] == found["start"])
        return (
            f"{found['best']}: trained from the {start['name']}, which was better in the trials "
            f"({found['metric']} {start['value']:.3f}, trained {best['value']:.3f}) and stays if "
            "the training is not"
        )
    others = [row for row in found["arms"] if not row["open"] and row["value"] > best["value"]]
    better = [f"; {row['name']} was not to choose, and has {row['value']:.3f}" for row in others]
    return (
        f"{found['best']}: the best of {arms} on the training classes ({found['metric']} "
        f"{best['value']:.3f} in {plural(best['runs'], 'run')}){''.join(better)}"
    )


def recipe_heads(found: Json) -> tuple[str, ...]:
    """Return the heads of the columns of :func:`recipe_rows`."""
    return "recipe", "runs", found["metric"], "95 % interval", "epochs", "time per run"


def recipe_rows(found: Json) -> list[tuple[str, ...]]:
    """Return a row for each recipe that was tried for a run, the best one first."""
    return [
        (
            row["name"],
            str(row["runs"]),
            f"{row['value']:.3f}",
            "" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"]),
            f"{row['epochs']:g}",
            units.duration(row["seconds"]),
        )
        for row in found["arms"]
    ]
