"""The pilot: a few steps of a candidate, which tell how long trials and trainings take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from siamkit.comparison.arms import Arm
from siamkit.comparison.folds import Images, divide, write_tables
from siamkit.comparison.pace import Pace
from siamkit.comparison.plan import Plan
from siamkit.comparison.unit import FAILURES, config_of, place_of, run_arm
from siamkit.config import RunConfig
from siamkit.data.memory import TABLE
from siamkit.errors import SiamkitError
from siamkit.interfaces import Event
from siamkit.registry import Registry

_PILOT = 8
"""Optimizer steps from which the pace is measured."""


Failures = tuple[tuple[str, str], ...]
"""The names of candidates that cannot be trained, each with the reason."""


def paced(
    base: RunConfig,
    arms: Sequence[Arm],
    registries: Mapping[str, Registry],
    images: Images,
    plan: Plan,
) -> tuple[Pace, tuple[Arm, ...], Failures]:
    """Return the pace of the first arm that can be trained, and the arms with this one first.

    Those that failed come last: they are tried again only if the budget allows all.

    Raises:
        SiamkitError: No arm can be trained; the error is that of the first one.
    """
    errors: list[SiamkitError] = []
    for number, arm in enumerate(arms):
        try:
            pace = pilot(base, arm, registries, images, plan)
        except FAILURES as error:
            errors.append(error)
        else:
            failed = tuple((one.name, e.what) for one, e in zip(arms[:number], errors, strict=True))
            return pace, (*arms[number:], *arms[:number]), failed
    raise errors[0]


def pilot(
    base: RunConfig, arm: Arm, registries: Mapping[str, Registry], images: Images, plan: Plan
) -> Pace:
    """Train a few steps of an arm on the images of the first round, and return their pace.

    The start is without the time before the run's first event: the first run of a process imports
    packages there, and the next ones need none of it.
    """
    turn = plan.rounds[0]
    folds = divide(images, plan)
    seconds = {"before": 0.0}

    def listen(event: Event) -> None:
        if event.name == "run_start":
            seconds["before"] = time.perf_counter() - begun
        if event.name == "epoch_end":
            seconds.update({key: event.data[key] for key in ("train_seconds", "seconds")})

    with TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        root = write_tables(replace(folds, sets={turn: folds.sets[turn]}), {turn: place})
        where = place_of(place / TABLE, root, turn, place / "run")
        few = {"train.epochs": 1, "train.epoch_steps": _PILOT}
        config = config_of(base, registries, arm, few, place=where)
        begun = time.perf_counter()
        result = run_arm([config], [{}], registries, plan.metric, [listen])
    evaluation = seconds["seconds"] - seconds["train_seconds"]
    total = result.seconds + result.filling - seconds["before"]
    step = seconds["train_seconds"] / result.steps
    return Pace(max(total - seconds["seconds"], 0.0), step, evaluation)
