"""The pilot: a few steps of a candidate, which tell how long trials and trainings take."""

from __future__ import annotations

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


def paced(
    base: RunConfig,
    arms: Sequence[Arm],
    registries: Mapping[str, Registry],
    images: Images,
    plan: Plan,
) -> tuple[Pace, tuple[Arm, ...]]:
    """Return the pace of the first arm that can be trained, and the arms with this one first.

    Those that failed come last: they are tried again only if the budget allows all.

    Raises:
        SiamkitError: No arm can be trained; the error is that of the first one.
    """
    first: SiamkitError | None = None
    for number, arm in enumerate(arms):
        try:
            pace = pilot(base, arm, registries, images, plan)
        except FAILURES as error:
            first = first or error
        else:
            return pace, (*arms[number:], *arms[:number])
    assert first is not None, "there is an arm"
    raise first


def pilot(
    base: RunConfig, arm: Arm, registries: Mapping[str, Registry], images: Images, plan: Plan
) -> Pace:
    """Train a few steps of an arm on the images of the first round, and return their pace."""
    turn = plan.rounds[0]
    folds = divide(images, plan)
    seconds: dict[str, float] = {}

    def listen(event: Event) -> None:
        if event.name == "epoch_end":
            seconds.update({key: event.data[key] for key in ("train_seconds", "seconds")})

    with TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        root = write_tables(replace(folds, sets={turn: folds.sets[turn]}), {turn: place})
        where = place_of(place / TABLE, root, turn, place / "run")
        few = {"train.epochs": 1, "train.epoch_steps": _PILOT}
        config = config_of(base, registries, arm, few, place=where)
        result = run_arm([config], [{}], registries, plan.metric, [listen])
    evaluation = seconds["seconds"] - seconds["train_seconds"]
    total = result.seconds + result.filling
    step = seconds["train_seconds"] / result.steps
    return Pace(max(total - seconds["seconds"], 0.0), step, evaluation)
