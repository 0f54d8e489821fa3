"""``siamkit train``: trains an embedding model, or continues a run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import completion, output
from siamkit.cli.durations import seconds
from siamkit.cli.flag_keys import flag_of
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import OUTPUT, Json
from siamkit.cli.report import end_with_report
from siamkit.cli.run_flags import AUTO, RunFlags, run_flags
from siamkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from siamkit.config import Layer
    from siamkit.interfaces import Event

Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|auto",
        help="Continue the run in this directory with its own configuration. DATA, --device, "
        "--workers and other settings that do not affect results may be changed. auto: continue "
        "the run in --run-dir, or start one there.",
        autocompletion=completion.runs,
        rich_help_panel="Data",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="With --resume: if a checkpoint is damaged, end with exit code 4 instead of going "
        "back to an older checkpoint.",
        rich_help_panel="Data",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="auto|augment",
        help="auto: compare a few recipes on the training classes first, and train with the best "
        "one. augment: the same, but only the augmentation is chosen. What other flags set stays "
        "as it is. Default: what the flags and the configuration say.",
        autocompletion=completion.choices("auto", "augment"),
        rich_help_panel="Training",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="With --recipe or --augment auto: the time for the comparison and the training "
        "together, such as 5m. Default: 5m.",
        rich_help_panel="Training",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Log only errors.", rich_help_panel=OUTPUT),
]


@run_flags
def train(
    flags: RunFlags,
    resume: Resume = None,
    strict: Strict = False,
    recipe: Recipe = None,
    budget: Budget = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train an embedding model.

    The run directory holds the configuration, the log, the metrics, and the checkpoints of the
    latest and the best epoch.
    """
    wish, code = _ReportWish(), 0
    asked = "recipe"
    if flags.augment == AUTO:
        flags, asked = replace(flags, augment=None), "recipe" if recipe else "augment"
        recipe = recipe or "augment"
    chosen = recipe, None if budget is None else seconds(budget, "--budget"), asked
    result = _train(flags, resume, strict, chosen, quiet, wish)
    if wish.granted:
        code = end_with_report(result, quiet=quiet)
    if json:
        output.emit_json("train", result)
    else:
        from siamkit.report.console import summary

        output.emit(summary(result))
    if code:
        raise typer.Exit(code)


class _ReportWish:
    """A listener that records whether the run's configuration asks for a report."""

    granted = False

    def __call__(self, event: Event) -> None:
        if event.name == "run_start":
            self.granted = event.data["config"]["report"]


def _train(
    flags: RunFlags,
    resume: Path | None,
    strict: bool,
    chosen: tuple[str | None, float | None, str],
    quiet: bool,
    wish: _ReportWish,
) -> Mapping[str, Any]:
    if strict and resume is None:
        raise ConfigError("works only with --resume", where="--strict")
    auto = resume == Path("auto")
    if chosen[0] and resume is not None and not auto:
        raise ConfigError(
            "cannot be combined with --resume RUN, because a run keeps its recipe",
            where=f"--{chosen[2]}",
            hint="leave it out, or continue with --resume auto and --run-dir",
        )
    if resume is not None and not auto and (flags.config or flags.preset):
        raise ConfigError(
            "continues with the run's own configuration, so it cannot be combined with "
            f"{'--config' if flags.config else '--preset'}",
            where="--resume",
            hint=f"'siamkit train --config {resume / 'config.yaml'}' starts another run like it",
        )
    with heavy_imports(announced=not quiet, quiet=quiet):
        from siamkit import api
        from siamkit.api.continuing import begin_or_continue, continued, has_begun
        from siamkit.api.recipes import choice_of, fit_with_recipe
    from siamkit.config import Layer, merge
    from siamkit.report.comparison import told, told_recipe
    from siamkit.report.console import ConsoleListener
    from siamkit.report.terminal import make_console

    layers = flags.layers()
    if chosen[2] == "augment":
        layers = [_without_augmentation(layers)]
    if (resume is None or auto) and not quiet and not _sets_data(layers):
        output.notice(
            f"no DATA given: {'a new run trains' if auto else 'training'} on 'sample', the "
            "built-in images. To train on your own images, pass a folder of class folders."
        )
    recipe, budget, asked = chosen
    choice = choice_of(recipe, budget, merge(*layers), asked)
    with ConsoleListener(make_console(sys.stderr)) as log:
        listeners = (wish,) if quiet else (wish, log)
        if choice is not None and not (auto and has_begun(layers)):
            if not quiet:
                choice = replace(
                    choice,
                    tell=lambda outlook: output.say(told_recipe(outlook)),
                    watch=lambda step: output.say(told(step)),
                )
            return fit_with_recipe(api.load_config(*layers), api.registries(), choice, listeners)
        if auto:
            return begin_or_continue(
                layers, flag_of, strict=strict, listeners=listeners, progress=False
            )
        if resume is not None:
            changes = Layer(merge(*layers), flag_of)
            return continued(resume, changes, strict=strict, listeners=listeners, progress=False)
        return api.fit(api.load_config(*layers), listeners=listeners, progress=False)


def _without_augmentation(layers: Sequence[Layer]) -> Layer:
    """Return the layers as one, without their choice of the augmentation, which a recipe makes."""
    from siamkit.config import Layer, joined

    # Another choice on top drops the strengths that belong to the one below it.
    top = Layer({"data": {"augment": {"preset": AUTO}}}, flag_of)
    values = joined([*layers, top])
    del values["data"]["augment"]["preset"]
    return values


def _sets_data(layers: Sequence[Layer]) -> bool:
    return any(layer.sets("data.path") for layer in layers)
