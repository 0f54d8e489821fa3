"""The recipe of a run, chosen on its own training classes within a time budget.

A few candidates are compared on folds of the training classes: how much of the network trains, with
which loss, head and augmentation; or the augmentation alone. The validation classes of the run take
no part, so they still tell how good the trained network is. Lengths are chosen by time and by
steps, not by epochs: an epoch of few images has too few steps, and one of many images too many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from siamkit.comparison.arms import CLOSED, Arm, keeping, without_training
from siamkit.comparison.candidates import candidates, keys
from siamkit.comparison.compare import Compared, compare
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.folds import Images, divide
from siamkit.comparison.heads import readable
from siamkit.comparison.pace import FEWEST, Lengths, Pace, training_epochs, trial_lengths
from siamkit.comparison.pilot import paced
from siamkit.comparison.plan import Plan
from siamkit.comparison.summary import summary
from siamkit.comparison.unit import config_of
from siamkit.comparison.work import Watch
from siamkit.config import CLOSED_FORM, RunConfig
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.data.load import load_data
from siamkit.data.opening import open_source
from siamkit.data.splits import Splits
from siamkit.data.usability import usable
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted
from siamkit.files import is_there
from siamkit.json_files import read_sealed
from siamkit.registry import Registry
from siamkit.runs.events import Listener
from siamkit.training.batching import epoch_steps

BUDGET = 300.0
"""The default budget in seconds."""

_EPOCH = 25
"""The most optimizer steps between two evaluations."""
_TRIALS = 0.6
"""The share of the budget for the comparison; the rest is for the training."""
_SLACK = 0.9
"""The share of the time that is planned for: the rest covers what the pace does not tell."""
_FORWARD = 3
"""How often the images of a trial are as many as those of an evaluation, about."""
_MOST = 1.2
"""How many times the budget the command may take, by the estimate, if it could do without."""
_REPORT = 5.0
"""Seconds that the report of a run takes, about."""
_FOLDS = (3, 2)


@dataclass(frozen=True)
class Outlook:
    """The next steps of the choice of a recipe, and how long they take.

    Attributes:
        budget: Seconds for the comparison and the training together.
        expected: Estimated seconds of both.
        arms: The number of recipes that are compared, 0 if none are; None while it is not known.
        of: The number of recipes that could be compared.
        trained: The recipe that is trained if none are compared; None if the time is too short for
            a training, too.
    """

    budget: float
    expected: float = 0.0
    arms: int | None = None
    of: int = 0
    trained: str | None = None


@dataclass(frozen=True)
class Alone:
    """The recipe that is trained if the budget is too short to compare two.

    Attributes:
        arm: The most promising recipe that can be trained.
        pace: The pace of the training, by a few steps.
        steps: Optimizer steps per epoch.
        needed: Whether it is trained whatever that takes, because no network without training may
            be chosen.
    """

    arm: Arm
    pace: Pace
    steps: int
    needed: bool

    @property
    def least(self) -> float:
        """Seconds of the shortest training."""
        return self.pace.of(math.ceil(FEWEST / self.steps), self.steps)

    def is_trained(self, budget: float, passed: float) -> bool:
        """Return whether the recipe is trained, ``passed`` seconds after the command began."""
        return self.needed or passed + self.least <= _MOST * budget


@dataclass(frozen=True)
class Recipe:
    """The recipe of a run.

    Attributes:
        config: The config of the run, with the recipe.
        record: What was tried, for the run's records, as JSON values.
        table: The summary of the comparison.
        notices: Notices for the user.
    """

    config: RunConfig
    record: dict[str, Any]
    table: dict[str, Any]
    notices: tuple[str, ...] = ()


def choose_recipe(
    base: RunConfig,
    fixed: Collection[str],
    registries: Mapping[str, Registry],
    place: ComparisonDir,
    *,
    given: Mapping[str, Any] | None = None,
    kind: str = "auto",
    budget: float = BUDGET,
    again: str | None = None,
    watch: Watch = lambda step: None,
    tell: Callable[[Outlook], None] = lambda outlook: None,
    listeners: Sequence[Listener] = (),
) -> Recipe:
    """Compare the candidates on the training classes, and return the recipe for all of them.

    Args:
        base: The config of the run.
        fixed: The dotted keys that the user has set; a candidate does not change them. They leave
            one candidate or more.
        registries: The registry of each component section, and of ``track``.
        place: Where the comparison is kept. A comparison that was stopped goes on.
        given: The values that the user has set, by dotted key. Strengths of the augmentation apply
            to each candidate.
        kind: What is chosen: one of :data:`.KINDS`.
        budget: Seconds for the comparison and the training together.
        again: How the user continues a choice that was stopped.
        watch: Called before and after each trial.
        tell: Called before a step's time is measured, and before the trials.
        listeners: Called with the events of the trials.

    Raises:
        SiamkitError: The data cannot be used, or a setting is wrong.
    """
    begun = time.perf_counter()
    arms = tuple(keeping(arm, given or {}, registries) for arm in candidates(fixed, kind))
    train = base.train.model_copy(update={"epoch_steps": base.train.epoch_steps or _EPOCH})
    base = base.model_copy(update={"train": train})
    images, splits = _training(base)
    arms = readable(arms, base, registries)
    seed, trials = base.train.seed, _TRIALS * budget
    plain = without_training(base.head.name)
    metric = base.train.monitored  # what chooses the best epoch of the run
    plan = Plan((*plain, *arms), _folds(images, seed), (seed,), metric, budget=trials)
    part = divide(images, plan).sets[plan.rounds[0]]
    held_out = _ratio(splits.val, part["val"])
    steps = _steps(base, registries, arms[0], part["train"])
    free = _is_free(fixed, kind)
    goes_on = is_there(place.plan)
    if goes_on:  # a comparison that was stopped keeps its lengths, and what it tries
        lengths, names = _begun(place)
        arms = tuple(sorted(arms, key=lambda arm: _place(arm.name, names)))
    if not goes_on or not lengths.arms:
        tell(Outlook(budget))
        try:
            pace, arms = paced(base, arms, registries, images, plan)
        except Interrupted as error:  # its run lay in a folder that is gone
            what = "stopped while the time of a step was measured"
            raise Interrupted(what, exit_code=error.exit_code, hint=again) from None
        slower = Pace(2 * pace.start + _REPORT, pace.step, held_out * pace.evaluation)
        alone = Alone(arms[0], slower, _steps(base, registries, arms[0], splits.train), not free)
        if not goes_on:
            passed = time.perf_counter() - begun
            still = 2 * (pace.start + _FORWARD * pace.evaluation)
            lengths = trial_lengths(pace, _SLACK * trials - passed - still, len(arms), steps)
            least = passed + still + lengths.arms * pace.of(lengths.epochs, steps)
            if lengths.arms and least + alone.least > _MOST * budget:
                lengths, least = Lengths(0, 0), passed + still
            tell(_outlook(budget, least, lengths, alone, len(arms)))
    tried = arms[: lengths.arms]
    plan = replace(plan, arms=(*plain, *tried))
    compared = compare(
        plan,
        _with_epochs(base, max(1, lengths.epochs)),
        registries,
        place,
        images=images,
        again=again,
        watch=watch,
        listeners=listeners,
    )
    table = summary(compared)
    passed = time.perf_counter() - begun
    if goes_on:  # what the trials took before they were stopped counts too
        passed = max(passed, table["seconds"])
    if not tried and alone.is_trained(budget, passed):
        choice, best = {alone.arm.name: alone.arm}, alone.arm
    else:
        choice = {arm.name: arm for arm in plan.arms if arm.trains or free}
        best = _chosen(table, choice)
    config = config_of(base, registries, best)
    record = _record(table, best, choice, budget)
    if best.trains:
        steps = _steps(base, registries, best, splits.train)
        arm = plan.arms.index(best) if tried else None
        own = alone.pace if arm is None else _pace_of(compared, arm, held_out)
        epochs = training_epochs(own, _SLACK * (budget - passed), steps)
        config = _with_epochs(config, epochs)
        record |= {"epochs": epochs, "steps": steps, "expected": own.of(epochs, steps)}
    return Recipe(config, record, table, tuple(_notices(table, best, arms, tried)))


def _notices(
    table: Mapping[str, Any], best: Arm, arms: Sequence[Arm], tried: Sequence[Arm]
) -> list[str]:
    """Return notices about the recipes that were not compared.

    Args:
        table: The summary of the comparison.
        best: The recipe of the run.
        arms: The candidates.
        tried: Those that were compared.
    """
    if not tried and not best.trains:
        return ["the budget is too short for a training: networks without training were compared"]
    if not tried and len(arms) > 1:
        return ["the budget is too short to compare recipes: one is trained without trials"]
    notices = [
        f"the recipe {row['name']!r} failed, so it was left out: {row['why']}"
        for row in table["failed"]
        if row["name"] in {arm.name for arm in tried}
    ]
    if tried and len(tried) < len(arms):
        notices.append(
            f"the budget is too short to compare all {len(arms)} recipes: "
            f"{len(tried)} recipes were compared"
        )
    return notices


def _outlook(budget: float, least: float, lengths: Lengths, alone: Alone, of: int) -> Outlook:
    """Return what comes next, and how long it takes.

    Args:
        budget: The budget in seconds.
        least: Seconds from the beginning to the end of one round of the trials.
        lengths: The lengths of the trials.
        alone: The recipe that is trained if there are no trials.
        of: The number of candidates.
    """
    if lengths.arms or alone.is_trained(budget, least):
        return Outlook(budget, max(budget, least + alone.least), lengths.arms, of, alone.arm.name)
    return Outlook(budget, least + _REPORT, 0, of)


def _folds(images: Images, seed: int) -> int:
    """Return the number of folds that the images allow, the preferred one if they do.

    Raises:
        DataError: There are too few classes and images for any.
    """
    for number in _FOLDS:
        try:
            divide(images, Plan((), number, (seed,)))
        except DataError as error:
            problem = error
        else:
            return number
    raise DataError(
        f"the training part is too small to compare recipes: {problem.what}",
        where=images.source.where,
        hint="leave out the recipe, or add classes",
    )


def _training(base: RunConfig) -> tuple[Images, Splits]:
    """Return the training images of a run as those of a comparison, and the run's data.

    Raises:
        DataError: The data cannot be used, or has no labels.
    """
    splits = load_data(base.data, base.train.seed)
    opened = open_source(base.data.path, base.data.root, base.data.columns)
    if splits.train.tuples is not None:
        raise DataError(
            f"a recipe is chosen on images with labels, and this data holds {opened.kind}",
            where=opened.where,
            hint="leave out the recipe, and choose the settings yourself",
        )
    source = usable(opened, base.data).source
    return Images(source, splits.train, digest(splits.train), ()), splits


def _begun(place: ComparisonDir) -> tuple[Lengths, list[str]]:
    """Return the lengths of the trials of a comparison that was stopped, and its arms' names."""
    facts = read_sealed(place.plan, f"remove {place.path}, and repeat the command")
    try:
        names = [str(arm["name"]) for arm in facts["arms"] if arm["trains"]]
        return Lengths(int(facts["config"]["train.epochs"]), len(names)), names
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            "the file is of another version of siamkit",
            where=str(place.plan),
            hint=f"remove {place.path}, and repeat the command",
        ) from None


def _place(name: str, names: Sequence[str]) -> int:
    """Return the place of a name; names that are not there come last."""
    return names.index(name) if name in names else len(names)


def _pace_of(compared: Compared, arm: int, held_out: float) -> Pace:
    """Return the pace of an arm's training on all training images, from its trials.

    What a network without training takes is the start of a run. On all training images, the start
    takes about twice as long as in a trial.

    Args:
        compared: The trials.
        arm: The number of the arm.
        held_out: How many times as many images the training is evaluated on as a trial.
    """
    still = next(i for i, one in enumerate(compared.plan.arms) if not one.trains)
    runs = [r for (a, _), r in compared.results.items() if a == arm and r.failed is None]
    starts = [r for (a, _), r in compared.results.items() if a == still and r.failed is None]
    start = min((r.seconds + r.filling for r in starts), default=0.0)
    spent = fmean(r.seconds + r.filling for r in runs)
    evaluating = fmean(r.evaluating for r in runs)
    step = max(spent - start - evaluating, 1e-3) / fmean(r.steps for r in runs)
    evaluation = held_out * evaluating / fmean(r.epochs for r in runs)
    return Pace(2 * start + _REPORT, step, evaluation)


def _ratio(images: ImageSet, others: ImageSet) -> float:
    """Return how many times as many images as ``others`` there are."""
    return len(images) / len(others)


def _steps(base: RunConfig, registries: Mapping[str, Registry], arm: Arm, images: ImageSet) -> int:
    """Return the optimizer steps per epoch of an arm on some training images."""
    return len(epoch_steps(config_of(base, registries, arm).train, images, 0))


def _with_epochs(config: RunConfig, epochs: int) -> RunConfig:
    train = config.train.model_copy(update={"epochs": epochs})
    return config.model_copy(update={"train": train})


def _is_free(fixed: Collection[str], kind: str) -> bool:
    """Return whether a network without training may be chosen.

    It has a head of its own, and no loss, policy or augmentation, which the user may have set.
    """
    return kind == "auto" and not keys(kind) & set(fixed)


def _chosen(table: Mapping[str, Any], choice: Mapping[str, Arm]) -> Arm:
    """Return the best of the arms that are open to choose.

    A head in closed form that is better than every training is not the last word, because trials
    are short: the best recipe that begins with it is trained. The run keeps the closed form if the
    training is no better.
    """
    stopped = {row["name"] for row in table["arms"] if row["stopped"] is not None}
    left = [choice[row["name"]] for row in table["arms"] if row["name"] in set(choice) - stopped]
    if not left:
        raise ConfigError(
            "every recipe failed", where="recipe", hint="leave out the recipe to see the error"
        )
    begins = (arm for arm in left if arm.trains and arm.values.get("head.name") == CLOSED_FORM)
    return next(begins, left[0]) if left[0].name == CLOSED else left[0]


def _record(
    table: Mapping[str, Any], best: Arm, choice: Collection[str], budget: float
) -> dict[str, Any]:
    """Return what a run records about the choice of its recipe."""
    keys = ("name", "value", "interval", "runs", "seconds", "epochs", "trains")
    return {
        "best": best.name,
        "metric": table["metric"],
        "budget": budget,
        "seconds": table["seconds"],
        "arms": [
            {**{key: row[key] for key in keys}, "open": row["name"] in choice}
            for row in table["arms"]
        ],
    }
