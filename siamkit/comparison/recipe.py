"""The recipe of a run, chosen on its own training classes within a time budget.

A few candidates are compared on folds of the training classes: how much of the network trains, with
which loss, head and augmentation; or the augmentation alone. The validation classes of the run take
no part, so they still tell how good the trained network is. Lengths are chosen by time and by
steps, not by epochs: an epoch of few images has too few steps, and one of many images too many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from siamkit.comparison.arms import CLOSED, Arm, keeping, without_training
from siamkit.comparison.candidates import candidates, keys
from siamkit.comparison.compare import Compared, compare
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.folds import Images, divide
from siamkit.comparison.heads import readable
from siamkit.comparison.outlook import MOST, Alone, Outlook
from siamkit.comparison.pace import Lengths, Pace, training_epochs, trial_lengths
from siamkit.comparison.pilot import Failures, paced
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
_REPORT = 5.0
"""Seconds that the report of a run takes, about."""
_FOLDS = (3, 2)


@dataclass(frozen=True)
class Recipe:
    """The recipe of a run.

    Attributes:
        config: The config of the run, with the recipe.
        record: What was tried, for the run's records, as JSON values.
        table: The summary of the comparison; None if no recipes were compared.
        notices: Notices for the user.
    """

    config: RunConfig
    record: dict[str, Any]
    table: dict[str, Any] | None
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
    held_out = _ratio([splits.val], [part["val"]])
    free = _is_free(fixed, kind)
    failed: Failures = ()
    goes_on = is_there(place.plan)
    if goes_on:  # a comparison that was stopped keeps its lengths, and what it tries
        lengths, names = _begun(place)
        arms = tuple(sorted(arms, key=lambda arm: _place(arm.name, names)))
    else:
        tell(Outlook(budget))
        try:
            pace, arms, failed = paced(base, arms, registries, images, plan)
        except Interrupted as error:  # its run lay in a folder that is gone
            what = "stopped while the time of a step was measured"
            raise Interrupted(what, exit_code=error.exit_code, hint=again) from None
        steps = _steps(base, registries, arms[0], part["train"])
        its_steps = _steps(base, registries, arms[0], splits.train)
        more = _ratio(splits.sets.values(), part.values())
        whole = Pace(more * pace.start + _REPORT, pace.step, held_out * pace.evaluation)
        alone = Alone(arms[0], whole, splits.train, its_steps, not free)
        passed = time.perf_counter() - begun
        still = 2 * (pace.start + _FORWARD * pace.evaluation)
        lengths = trial_lengths(pace, _SLACK * trials - passed - still, len(arms), steps)
        a_round = still + lengths.arms * pace.of(lengths.epochs, steps)
        if not lengths.arms or passed + a_round + alone.least > MOST * budget:
            outlook = alone.outlook(budget, passed, len(arms))
            tell(outlook)
            left = _SLACK * (budget - passed)
            return _without_trials(base, registries, alone, outlook, metric, left, failed)
        spent = passed + a_round, passed + len(plan.rounds) * a_round
        tell(alone.outlook_with_trials(budget, *spent, lengths.arms, len(arms)))
    tried = arms[: lengths.arms]
    plan = replace(plan, arms=(*plain, *tried))
    compared = compare(
        plan,
        _with_epochs(base, lengths.epochs),
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
    choice = {arm.name: arm for arm in plan.arms if arm.trains or free}
    best, start = _chosen(table, choice)
    config = config_of(base, registries, best)
    record = _record(table, best, start, choice, budget)
    if best.trains:
        own = _pace_of(compared, plan.arms.index(best), held_out)
        config, length = _trained(config, splits.train, own, _SLACK * (budget - passed))
        record |= length
    notices = dict.fromkeys([*_on_failures(failed), *_notices(table, arms, tried)])
    return Recipe(config, record, table, tuple(notices))


def _without_trials(
    base: RunConfig,
    registries: Mapping[str, Registry],
    alone: Alone,
    outlook: Outlook,
    metric: str,
    left: float,
    failed: Failures,
) -> Recipe:
    """Return the recipe of a run whose budget is too short to compare recipes.

    Args:
        base: The config of the run.
        registries: The registry of each component section, and of ``track``.
        alone: The most promising recipe.
        outlook: Whether it is trained. If not, the run has the head in closed form.
        metric: The metric that chooses the best epoch.
        left: Seconds for the training.
        failed: The candidates that cannot be trained.
    """
    trained = outlook.trained is not None
    best = alone.arm if trained else without_training(base.head.name)[-1]
    config = config_of(base, registries, best)
    record = {
        "best": best.name, "metric": metric, "budget": outlook.budget, "seconds": 0.0,
        "start": None, "arms": [],
    }  # fmt: skip
    notices = _on_failures(failed)
    if trained:
        config, length = _trained(config, alone.images, alone.pace, left)
        record |= length
        if outlook.of > 1:
            notices.append(
                "the budget is too short to compare recipes: one is trained without trials"
            )
    else:
        notices.append("the budget is too short for a training: the head in closed form is kept")
    return Recipe(config, record, None, tuple(notices))


def _trained(
    config: RunConfig, images: ImageSet, pace: Pace, seconds: float
) -> tuple[RunConfig, dict[str, Any]]:
    """Return a config with the epochs that fit into a time, and what a run records about them."""
    steps = len(epoch_steps(config.train, images, 0))
    epochs = training_epochs(pace, seconds, steps)
    expected = pace.of(epochs, steps)
    length = {"epochs": epochs, "steps": steps, "expected": expected}
    return _with_epochs(config, epochs), length


def _on_failures(failed: Failures) -> list[str]:
    """Return a notice for each candidate that could not be trained in the pilot."""
    return [f"the recipe {name!r} failed, so it was left out: {why}" for name, why in failed]


def _notices(table: Mapping[str, Any], arms: Sequence[Arm], tried: Sequence[Arm]) -> list[str]:
    """Return notices about the recipes that failed in the trials, or that were not compared.

    Args:
        table: The summary of the comparison.
        arms: The candidates.
        tried: Those that were compared.
    """
    names = {arm.name for arm in tried}
    failed = tuple((row["name"], row["why"]) for row in table["failed"] if row["name"] in names)
    notices = _on_failures(failed)
    if len(tried) < len(arms):
        notices.append(
            f"the budget is too short to compare all {len(arms)} recipes: "
            f"{len(tried)} recipes were compared"
        )
    return notices


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


def _ratio(sets: Iterable[ImageSet], others: Iterable[ImageSet]) -> float:
    """Return how many times as many images some sets have as others."""
    return sum(map(len, sets)) / sum(map(len, others))


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


def _chosen(table: Mapping[str, Any], choice: Mapping[str, Arm]) -> tuple[Arm, str | None]:
    """Return the best of the arms that are open to choose, and what was better in the trials.

    A head in closed form that is better than every training is not the last word, because trials
    are short: the best recipe that begins with it is trained. The run keeps the closed form if the
    training is no better.

    Returns:
        The arm, and the name of the head in closed form with which it begins, if that was better.
    """
    stopped = {row["name"] for row in table["arms"] if row["stopped"] is not None}
    left = [choice[row["name"]] for row in table["arms"] if row["name"] in set(choice) - stopped]
    if not left:
        why = next((f": {row['why']}" for row in table["failed"] if row["name"] in choice), "")
        raise ConfigError(
            f"every recipe failed{why}",
            where="recipe",
            hint="mend the cause, or leave out the recipe and choose the settings yourself",
        )
    best = left[0]
    if best.name != CLOSED:
        return best, None
    begins = (arm for arm in left if arm.trains and arm.values.get("head.name") == CLOSED_FORM)
    arm = next(begins, best)
    return arm, None if arm is best else best.name


def _record(
    table: Mapping[str, Any],
    best: Arm,
    start: str | None,
    choice: Collection[str],
    budget: float,
) -> dict[str, Any]:
    """Return what a run records about the choice of its recipe.

    Args:
        table: The summary of the comparison.
        best: The recipe.
        start: The network without training that was better, and with which the recipe begins.
        choice: The names of the arms that were open to choose.
        budget: The budget in seconds.
    """
    keys = ("name", "value", "interval", "runs", "seconds", "epochs", "trains")
    return {
        "best": best.name,
        "start": start,
        "metric": table["metric"],
        "budget": budget,
        "seconds": table["seconds"],
        "arms": [
            {**{key: row[key] for key in keys}, "open": row["name"] in choice}
            for row in table["arms"]
        ],
    }
