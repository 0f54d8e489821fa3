"""The comparison: trains the arms in rounds until the race is over, the budget, or the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from siamkit.comparison.arms import Arm
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.equal import first_round, forget_other_lengths, with_equal_times
from siamkit.comparison.facts import configs_of, facts
from siamkit.comparison.folds import Images, divide, open_images, write_tables
from siamkit.comparison.plan import Plan
from siamkit.comparison.race import Race, Results, race
from siamkit.comparison.work import Helpers, Watch, Work, work
from siamkit.config import RunConfig
from siamkit.data.loader import default_workers
from siamkit.errors import ConfigError, SiamkitError
from siamkit.files import is_there
from siamkit.model.device import resolve_device
from siamkit.registry import Registry
from siamkit.runs.events import Listener
from siamkit.spelling import argument
from siamkit.training.requirements import require_one_process


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        plan: The plan.
        results: The results.
        race: The state at the end.
        how: A description of the folds.
        notices: Notices about the data.
        base: The config of all arms, with the place of the data.
        pilot: The results of the runs that only measured how long the arms take.
    """

    plan: Plan
    results: Results
    race: Race
    how: str
    notices: tuple[str, ...]
    base: RunConfig
    pilot: Results = field(default_factory=dict)


def compare(
    plan: Plan,
    base: RunConfig,
    registries: Mapping[str, Registry],
    place: ComparisonDir,
    *,
    images: Images | None = None,
    settle: Callable[[], RunConfig] | None = None,
    again: str | None = None,
    helpers: Helpers | None = None,
    watch: Watch = lambda step: None,
    listeners: Sequence[Listener] = (),
) -> Compared:
    """Train the arms of a plan, or go on with it, and return all results.

    Args:
        plan: The plan.
        base: The config of all arms.
        registries: The registry of each component section, and of ``track``.
        place: The directory of the comparison.
        images: The images; None to open the data of the config.
        settle: Puts the data into the directory, and returns the config with its new place; None
            if the data stays where it is.
        again: How the user continues a comparison that was stopped; None for the same command with
            this directory.
        helpers: Other processes that train some of the runs.
        watch: Called before and after each run, and when this process begins to wait for a run
            of another process.
        listeners: Called with the events of the runs.

    Raises:
        SiamkitError: An arm is wrong, the data cannot be used, or the disk is full. An arm whose
            training fails is only left out.
    """
    require_one_process()
    begun = is_there(place.plan)
    _require_arms(plan, base, registries)
    if not begun:
        _require_devices(plan, base, registries)
    again = again or f"repeat the command with {argument('output', str(place.path))}"
    data = open_images(base) if images is None else images
    folds = divide(data, plan)
    place.begin(facts(plan, base, registries, folds.digest(data.digest)))
    place.forget_mendable(plan)
    if begun and race(plan, place.done(plan)).todo:
        _require_devices(plan, base, registries)  # the machine may be another one now
    if settle is not None:
        base = settle()
        data = open_images(base)
        folds = divide(data, plan)
    first: Compared | None = None
    budget, changed = plan.budget, []
    if plan.equal == "time":
        pilot = ComparisonDir(place.pilot)
        first = compare(
            first_round(plan), base, registries, pilot, images=data, again=again, watch=watch,
            listeners=listeners,
        )  # fmt: skip
        plan = with_equal_times(plan, base, registries, first.results)
        changed = forget_other_lengths(plan, base, registries, place)
    tables = {turn: place.table(turn) for turn in plan.rounds}
    root = write_tables(folds, tables)
    job = Work(plan, base, place.path, tables, root, again)
    others = 0 if helpers is None else min(helpers.count, len(plan.arms) - 1)
    if helpers is None or not others or not race(plan, place.done(plan)).todo:
        texts: list[str] = []
        results, state = work(job, registries, place, watch, listeners)
    else:
        job = _divided(job, 1 + others, len(data.images))
        with helpers.started(others, job) as texts:
            results, state = work(job, registries, place, watch, listeners, all_told=True)
    place.finish()
    _require_some(plan, results, state.round, place, again)
    notices = (*data.notices, *folds.notices, *changed, *texts)
    piloted = {} if first is None else first.results
    return Compared(replace(plan, budget=budget), results, state, folds.how, notices, base, piloted)


def _divided(job: Work, processes: int, images: int) -> Work:
    """Return the work with each process's share of the machine, unless the user has set these.

    Args:
        job: The work.
        processes: The number of processes.
        images: The number of all images.
    """
    import torch

    train, data = job.base.train, job.base.data
    if train.threads is None:
        threads = max(1, torch.get_num_threads() // processes)
        train = train.model_copy(update={"threads": threads})
    if data.workers is None:
        workers = default_workers(images, resolve_device(train.device)) // processes
        data = data.model_copy(update={"workers": workers})
    base = job.base.model_copy(update={"train": train, "data": data})
    return replace(job, base=base, processes=processes)


def _require_arms(plan: Plan, base: RunConfig, registries: Mapping[str, Registry]) -> None:
    """Check the config of each arm before anything is trained."""
    seen: dict[str, Arm] = {}
    for arm in plan.arms:
        if arm.name in seen:
            raise ConfigError("two arms are the same", where=arm.name)
        seen[arm.name] = arm
    for _ in configs_of(plan, base, registries):
        pass


def _require_devices(plan: Plan, base: RunConfig, registries: Mapping[str, Registry]) -> None:
    """Check that this machine has the devices of all arms. A finished comparison needs none."""
    for _, config in configs_of(plan, base, registries):
        resolve_device(config.train.device)


def _require_some(
    plan: Plan, results: Results, rounds: int, place: ComparisonDir, again: str
) -> None:
    """Raise the error of the first arm if no arm is left to compare, and forget these failures.

    That is so if every trained arm failed in the first round, or every arm in a later one. If the
    plan has no trained arm, the networks without training count in the first round too.

    Args:
        plan: The plan.
        results: All results.
        rounds: The number of finished rounds.
        place: The directory of the comparison.
        again: How the user continues the comparison.
    """
    trains = any(arm.trains for arm in plan.arms)
    for turn in range(rounds):
        units = [
            (arm, number)
            for arm, number in sorted(results)
            if number == turn and (turn or not trains or plan.arms[arm].trains)
        ]
        if units and all(results[unit].failed is not None for unit in units):
            for unit in units:  # the machine may be the cause, and the user mends it
                place.forget(unit)
            raise SiamkitError(
                f"every arm failed; the first one: {results[units[0]].failed}",
                hint=f"mend the cause, and {again}",
            )
