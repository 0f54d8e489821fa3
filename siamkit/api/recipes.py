"""Trains a run whose recipe is chosen on its own training classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamkit.api.listening import observers
from siamkit.api.results import TrainingResult
from siamkit.comparison.candidates import KINDS, candidates, keys
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.outlook import Outlook
from siamkit.comparison.recipe import BUDGET, choose_recipe
from siamkit.comparison.work import Step
from siamkit.config import COMPONENTS, KEPT_KEYS, RunConfig, flat, whole
from siamkit.errors import ConfigError
from siamkit.files import is_there
from siamkit.registry import Registry
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.spelling import argument, on_command_line, setting, settings
from siamkit.training import fit as _fit

AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """How the recipe of a run is chosen.

    Attributes:
        kind: What is chosen: ``auto`` for the whole recipe, ``augment`` for the augmentation.
        fixed: The dotted keys that a candidate does not change.
        own: The values that the user has set, by dotted key.
        budget: Seconds for the choice and the training together.
        tell: Called with what comes next.
        watch: Called before and after each trial.
    """

    kind: str
    fixed: Collection[str] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    budget: float = BUDGET
    tell: Callable[[Outlook], None] = lambda outlook: None
    watch: Callable[[Step], None] = lambda step: None


def choice_of(
    recipe: Any, budget: Any, given: Mapping[str, Any], asked: str = "recipe"
) -> Choice | None:
    """Return how a recipe is chosen; None if the user does not ask for that.

    Args:
        recipe: ``auto``, ``augment``, or None.
        budget: Seconds, or None.
        given: The config values that the user has set, nested by section.
        asked: The argument with which the user asks, ``recipe`` or ``augment``, for errors.

    Raises:
        ConfigError: The recipe is unknown, the budget is wrong or has no effect, or nothing is left
            to choose.
    """
    if recipe is None:
        if budget is not None:
            raise ConfigError(
                "works only with a recipe that is chosen",
                where=argument("budget"),
                hint=f"add {argument('recipe', AUTO)}",
            )
        return None
    if not isinstance(recipe, str) or recipe not in KINDS:
        allowed = " or ".join(map(repr, KINDS))
        raise ConfigError("is no recipe", where=argument("recipe"), got=recipe, allowed=allowed)
    if budget is not None:
        require_seconds(budget)
    own = {key: value for key, value in flat(whole(given)) if value is not None}
    fixed = {*own, *_names_of_options(own)}
    if "train.epochs" in fixed:
        raise ConfigError(
            "cannot be combined with a recipe, because the budget decides how long the run trains",
            where=setting("train.epochs"),
            hint=f"leave it out, or use {argument('budget')}",
        )
    if not candidates(fixed, recipe):
        raise ConfigError(
            "there is nothing to choose, because every part of the recipe is set",
            where=argument(asked),
            got=", ".join(sorted(fixed & keys(recipe))),
            hint="leave out some of these settings, or the recipe",
        )
    return Choice(recipe, fixed, own, BUDGET if budget is None else float(budget))


def _names_of_options(own: Iterable[str]) -> Iterator[str]:
    """Yield the names of the components of which the user has set an option.

    The option belongs to the component that is used if nothing is chosen.
    """
    for key in own:
        section, _, option = key.partition(".")
        if section in COMPONENTS and option.partition(".")[0] not in KEPT_KEYS[section]:
            yield f"{section}.name"


def require_seconds(budget: Any) -> None:
    """Check that a budget is a number of seconds above 0.

    Raises:
        ConfigError: It is not.
    """
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not 0 < budget < float("inf"):
        raise ConfigError("must be above 0, in seconds", where=argument("budget"), got=budget)


def is_begun(run: RunDir) -> bool:
    """Return whether a run's directory holds a choice of its recipe that can go on."""
    return is_there(_place_of(run).plan)


def fit_with_recipe(
    config: RunConfig,
    known: Mapping[str, Registry],
    choice: Choice,
    listeners: Sequence[Listener],
    *,
    notices: Sequence[str] = (),
    reserved: RunDir | None = None,
) -> TrainingResult:
    """Choose the recipe of a run, and train the run.

    Args:
        config: A resolved config.
        known: The registry of each component section, and of ``track``.
        choice: How the recipe is chosen.
        listeners: Called with the events of the run.
        notices: Notices about the data.
        reserved: The run's directory, if the caller has made it.
    """
    run = reserved or RunDir.reserve(config, restart=True)
    place = _place_of(run)
    recipe = choose_recipe(
        config, choice.fixed, known, place, given=choice.own,
        kind=choice.kind, budget=choice.budget, tell=choice.tell, watch=choice.watch,
        again=f"repeat the command with {settings({'run_dir': str(run.path)})}"
        + (f" and {argument('resume', AUTO)}" if on_command_line() else ""),
    )  # fmt: skip
    if recipe.table is not None:
        from siamkit.report.html.comparison import write_comparison_page

        about = {"config": "config.yaml of the run", "run": recipe.record}
        write_comparison_page({**recipe.table, **about}, place.report)
    trained = recipe.config.model_copy(update={"run_dir": Path(run.path)})
    result = _fit.fit(
        trained, known, listeners, observers(),
        notices=(*notices, *recipe.notices), reserved=reserved, restart=True, recipe=recipe.record,
    )  # fmt: skip
    return TrainingResult(result)


def _place_of(run: RunDir) -> ComparisonDir:
    return ComparisonDir(run.recipe.absolute(), option="run_dir")
