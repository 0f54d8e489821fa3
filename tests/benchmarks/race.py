"""How the race of ``siamkit compare`` stops arms, beside a pruner of Optuna.

    pip install optuna
    python tests/benchmarks/race.py

Simulated comparisons of four arms: each run has a deviation of its own, and so has each class in
it. One arm is worse than the others by a known difference. The script prints how often this arm is
stopped before the last round, and after how many rounds on average (the last one if it is never
stopped): by ``siamkit.comparison.race``, and by Optuna's ``WilcoxonPruner``, which compares the
values of an arm's runs with those of the leader.
"""

from __future__ import annotations

import argparse
import warnings
from statistics import fmean

import numpy as np
import optuna

from siamkit.comparison.arms import Arm
from siamkit.comparison.plan import Plan
from siamkit.comparison.race import race
from siamkit.comparison.results import ArmResult

ARMS, FOLDS, SEEDS, CLASSES = 4, 3, 3, 20
ROUNDS = FOLDS * SEEDS


def drawn(rng: np.random.Generator, options: argparse.Namespace, run: float, worse: float):
    """Return recall@1 by arm, round and class; the last arm is worse."""
    values = 0.5 + options.spread * rng.normal(size=(ARMS, ROUNDS, CLASSES))
    values += run * rng.normal(size=(ARMS, ROUNDS, 1))
    values[-1] -= worse
    return values


def by_intervals(values: np.ndarray) -> int:
    """Return the rounds of the last arm, by siamkit's race."""
    plan = Plan(tuple(Arm(str(arm)) for arm in range(ARMS)), FOLDS, tuple(range(SEEDS)))
    results = {}
    for arm, number in np.ndindex(ARMS, ROUNDS):
        totals = {f"{number}/{c}": (10, 10 * v) for c, v in enumerate(values[arm, number])}
        results[arm, number] = ArmResult({plan.metric: totals}, {plan.metric: totals})
    stop = race(plan, results).stopped.get(ARMS - 1)
    return ROUNDS if stop is None else stop.rounds


def by_optuna(values: np.ndarray, threshold: float) -> int:
    """Return the rounds of the last arm, by a pruner that is asked after each round."""
    runs = values.mean(axis=2)
    for rounds in range(1, ROUNDS):
        leader = int(runs[:, :rounds].mean(axis=1).argmax())
        if leader == ARMS - 1:
            continue
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=threshold)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        known = {n: float(runs[leader, n]) for n in range(rounds)}
        best = optuna.trial.create_trial(value=fmean(known.values()), intermediate_values=known)
        study.add_trial(best)
        trial = study.ask()
        for number in range(rounds):
            trial.report(float(runs[-1, number]), number)
        if trial.should_prune():
            return rounds
    return ROUNDS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.1, help="of the classes of a run")
    parser.add_argument("--threshold", type=float, default=0.05, help="p-value of the pruner")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    rng = np.random.default_rng(0)
    print(f"{ROUNDS} rounds of {CLASSES} classes, {options.draws} draws")
    print("worse by  spread of runs     siamkit            Optuna")
    for worse in (0.0, 0.03, 0.1, 0.2):
        for run in (0.01, 0.03):
            every = [drawn(rng, options, run, worse) for _ in range(options.draws)]
            columns = []
            for rounds in (
                [by_intervals(values) for values in every],
                [by_optuna(values, options.threshold) for values in every],
            ):
                early = fmean(n < ROUNDS for n in rounds)
                columns.append(f"{early:4.0%} after {fmean(rounds):.1f}")
            print(f"{worse:8.2f}  {run:14.2f}     {columns[0]}     {columns[1]}", flush=True)


if __name__ == "__main__":
    main()
