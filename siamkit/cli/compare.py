"""``siamkit compare``: trains several recipes on one data set and says which is better."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import completion, output
from siamkit.cli.durations import seconds
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json
from siamkit.cli.run_flags import RunFlags, run_flags
from siamkit.errors import ConfigError

if TYPE_CHECKING:
    from siamkit.comparison.work import Step

_COMPARED, _PROTOCOL = "What is compared", "How it is compared"


def _names(kind: str, section: str) -> Any:
    return typer.Option(
        metavar="NAME,NAME...",
        help=f"{kind} to compare, separated by commas. Default: that of 'train'.",
        autocompletion=completion.entries(section),
        rich_help_panel=_COMPARED,
    )


Policies = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME...",
        help="Freeze policies to compare, separated by commas. Default: freeze-all, stages, "
        "gradual-unfreeze and full, if nothing else is compared.",
        autocompletion=completion.entries("freeze"),
        rich_help_panel=_COMPARED,
    ),
]
Losses = Annotated[str | None, _names("Losses", "loss")]
Heads = Annotated[str | None, _names("Heads", "head")]
Backbones = Annotated[str | None, _names("Backbones", "backbone")]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2...",
        help="Values of any other configuration key to compare, such as train.epochs=5,20. "
        "Repeatable. Default: none.",
        autocompletion=completion.assignments,
        rich_help_panel=_COMPARED,
    ),
]
Tune = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2...",
        help="Values that each run tries; its validation images choose one, such as "
        "optimizer.lr=0.001,0.004. Repeatable. Default: none.",
        autocompletion=completion.assignments,
        rich_help_panel=_PROTOCOL,
    ),
]
Folds = Annotated[
    int,
    typer.Option(
        min=2,
        help="Divide the classes into this number of parts; each is held out in turn.",
        rich_help_panel=_PROTOCOL,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Train all folds with this number of seeds; each seed divides the classes anew.",
        rich_help_panel=_PROTOCOL,
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        metavar="recall@1|map@r",
        help="The metric to compare.",
        autocompletion=completion.choices("recall@1", "map@r"),
        rich_help_panel=_PROTOCOL,
    ),
]
Equal = Annotated[
    str,
    typer.Option(
        metavar="images|time",
        help="What is the same for all arms. images: they train for the same number of epochs. "
        "time: cheap arms train for more epochs.",
        autocompletion=completion.choices("images", "time"),
        rich_help_panel=_PROTOCOL,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="The time that all runs may take together, such as 30m or 2h. If it is too short for "
        "all arms, the worse half stops. Default: no limit.",
        rich_help_panel=_PROTOCOL,
    ),
]
Place = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write the comparison to DIR. If it is there already, the same command continues it. "
        "Default: comparisons/<time>-<data>.",
        rich_help_panel=OUTPUT,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Train N runs at the same time, each in a process of its own, which needs its own "
        "memory. They share the threads and the decoding processes, unless --threads and --workers "
        "set those of each. It pays for short runs, such as heads on cached features.",
        rich_help_panel=_PROTOCOL,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Log only errors.", rich_help_panel=OUTPUT)
]


_REFUSED = ("run_dir", "report", "track")


@partial(run_flags, refused=_REFUSED)
def compare(
    flags: RunFlags,
    policies: Policies = None,
    losses: Losses = None,
    heads: Heads = None,
    backbones: Backbones = None,
    vary: Vary = None,
    tune: Tune = None,
    folds: Folds = 3,
    seeds: Seeds = 3,
    metric: Metric = "recall@1",
    equal: Equal = "images",
    budget: Budget = None,
    place: Place = None,
    jobs: Jobs = 1,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare recipes on your own data, with intervals and a verdict.

    Every combination of the given values is an arm. Each arm is trained on the same classes with
    the same seeds, and measured on classes that it never saw. The backbone without training and
    the head in closed form are always compared too. DATA must be images with labels. Takes the
    flags of 'train' for what all arms have in common, except --run-dir, --report and --track.
    Several presets after --augment, separated by commas, are compared as well.
    """
    policy = _listed(policies)
    for name in _REFUSED:
        if getattr(flags, name) not in (None, []):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError("has no effect on a comparison", where=flag, hint="leave it out")
    limit = None if budget is None else seconds(budget, "--budget")
    with heavy_imports(announced=not quiet, quiet=quiet):
        from siamkit import api
    from siamkit.config import joined

    config = joined(replace(flags, augment=None).layers())
    result = api.compare(
        config,
        policies=policy or ([flags.freeze_policy] if flags.freeze_policy else None),
        losses=_listed(losses),
        heads=_listed(heads),
        augment=_listed(flags.augment),
        backbones=_listed(backbones),
        vary=_values("--vary", vary),
        tune=_values("--tune", tune),
        folds=folds,
        seeds=seeds,
        metric=metric,
        equal=equal,
        budget=limit,
        output=place,
        jobs=jobs,
        watch=None if quiet else _told,
        begun=None if quiet else lambda path: output.say(f"comparison: {path}"),
    )
    if json:
        output.emit_json("compare", result)
        return
    from siamkit.report.comparison import comparison

    output.emit(comparison(result))


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _values(flag: str, assignments: Iterable[str] | None) -> dict[str, list[Any]]:
    """Return the values of ``KEY=V1,V2`` by key; each is a YAML value."""
    from siamkit.config import flat, parse_sets

    result = {}
    for text in assignments or ():
        key, equals, listed = text.partition("=")
        if not equals or not listed:
            raise ConfigError("must be KEY=V1,V2, such as train.epochs=5,20", where=flag, got=text)
        for name, values in flat(parse_sets([f"{key}=[{listed}]"])):
            if name in result:
                raise ConfigError(
                    "is given twice", where=f"{flag} {name}", hint=f"write {name}=V1,V2,V3"
                )
            result[name] = values
    return result


def _told(step: "Step") -> None:
    from siamkit.report.comparison import told

    output.say(told(step))
