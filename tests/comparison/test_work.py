from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from siamkit.comparison import work as working
from siamkit.comparison.arms import Arm
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.plan import Plan
from siamkit.comparison.race import spent
from siamkit.comparison.results import ArmResult
from siamkit.comparison.work import Step, Work, work
from siamkit.config import RunConfig
from siamkit.errors import Interrupted, NonFiniteError

ARMS = (Arm("still", trains=False), Arm("a"), Arm("b"))
TOTALS = {"recall@1": {"x": (4, 2.0), "y": (4, 3.0)}}


@pytest.mark.parametrize(
    ("processes", "budget", "ahead"),
    [
        # A run takes 6 s, and the features of the first one 2 s more. Two rounds have six runs.
        (1, None, [None, None, 24.0, 18.0, 12.0, 6.0]),
        (2, None, [None, None, 12.0, 9.0, 6.0, 3.0]),
        (1, 40.0, [None, None, 24.0, 18.0, 12.0, 6.0]),
    ],
)
def test_the_time_left_is_estimated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    budget: float | None,
    ahead: list[float | None],
) -> None:
    runs: list[int] = []

    def trained(job: Work, *given: Any) -> ArmResult:
        runs.append(1)
        return ArmResult(TOTALS, TOTALS, 6.0, 2.0 if len(runs) == 1 else 0.0)

    monkeypatch.setattr(working, "_trained", trained)
    plan = Plan(ARMS, 2, (0,), budget=budget)
    job = Work(plan, None, tmp_path, {}, tmp_path, "again", processes)  # type: ignore[arg-type]
    steps: list[Step] = []
    results, state = work(job, {}, ComparisonDir(tmp_path), steps.append)
    assert (len(results), state.round, state.todo) == (6, 2, ())
    assert [step.ahead for step in steps if step.result is None] == ahead
    assert steps[-1].ahead == 0.0


@pytest.mark.parametrize(("budget", "ahead"), [(30.0, 16.0), (5.0, 0.0)])
def test_the_time_left_is_at_most_that_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, ahead: float
) -> None:
    """The budget ends the comparison after the first round. Before its last run, 14 s are over."""
    seconds = iter([8.0, 6.0, 6.0])
    monkeypatch.setattr(working, "_trained", lambda *_: ArmResult(TOTALS, TOTALS, next(seconds)))
    job = Work(Plan(ARMS, 2, (0,), budget=budget), None, tmp_path, {}, tmp_path, "again")  # type: ignore[arg-type]
    steps: list[Step] = []
    _, state = work(job, {}, ComparisonDir(tmp_path), steps.append)
    assert [step.ahead for step in steps if step.result is None] == [None, None, ahead]
    assert state.over_budget


def test_runs_of_other_processes_are_told_with_their_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ArmResult(TOTALS, TOTALS, 6.0)

    def trained(job: Work, registries: Any, place: ComparisonDir, unit: Any, _: Any) -> ArmResult:
        if unit == (0, 0):  # meanwhile, another process finishes the last run of the round
            ComparisonDir(tmp_path).keep((2, 0), done)
        return done

    monkeypatch.setattr(working, "_trained", trained)
    job = Work(Plan(ARMS, 2, (0,)), None, tmp_path, {}, tmp_path, "again")  # type: ignore[arg-type]
    steps: list[Step] = []
    work(job, {}, ComparisonDir(tmp_path), steps.append, all_told=True)
    told = [(step.round, step.arm) for step in steps if step.result is not None]
    assert told == [
        (1, "still"), (1, "b"), (1, "a"), (2, "still"), (2, "a"), (2, "b"),
    ]  # fmt: skip


def test_a_run_that_failed_took_time_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def run_arm(*given: Any) -> ArmResult:
        now[0] += 7.0
        raise NonFiniteError("the loss is NaN")

    monkeypatch.setattr(working, "run_arm", run_arm)
    monkeypatch.setattr(working, "variant_of", lambda *given, **named: RunConfig())
    monkeypatch.setattr(working.time, "perf_counter", lambda: now[0])
    plan = Plan(ARMS, 2, (0,), budget=40.0)
    tables = dict.fromkeys(plan.rounds, tmp_path)
    job = Work(plan, None, tmp_path, tables, tmp_path, "again")  # type: ignore[arg-type]
    results, _ = work(job, {}, ComparisonDir(tmp_path))
    assert {unit: r.seconds for unit, r in results.items()} == {(a, 0): 7.0 for a in range(3)}
    assert spent(results, 1) == 21.0
    assert {r.planned for r in results.values()} == {RunConfig().train.epochs}


def test_a_signal_in_a_run_is_told_as_one_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_arm(*given: Any) -> ArmResult:
        raise Interrupted("stopped by SIGINT after step 3", exit_code=130, hint="resume the run")

    monkeypatch.setattr(working, "run_arm", run_arm)
    monkeypatch.setattr(working, "variant_of", lambda *given, **named: RunConfig())
    plan = Plan(ARMS, 2, (0,))
    tables = dict.fromkeys(plan.rounds, tmp_path)
    job = Work(plan, None, tmp_path, tables, tmp_path, "repeat the command")  # type: ignore[arg-type]
    with pytest.raises(Interrupted) as caught:
        work(job, {}, ComparisonDir(tmp_path))
    told = "the comparison was stopped: stopped by SIGINT after step 3"
    assert (caught.value.what, caught.value.exit_code) == (told, 130)
    assert caught.value.hint == "repeat the command"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_another_process_trains_tells_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    plan = Plan(ARMS, 2, (0,))
    job = Work(plan, None, tmp_path, {}, tmp_path, "repeat the command")  # type: ignore[arg-type]
    place = ComparisonDir(tmp_path)
    for arm in range(len(ARMS)):
        place.keep((arm, 1), ArmResult(TOTALS, TOTALS, 6.0, 0.0))
        if arm:
            place.keep((arm, 0), ArmResult(TOTALS, TOTALS, 6.0, 0.0))
    # A shell starts background jobs with signals that are ignored.
    before = signal.signal(number, signal.default_int_handler)
    monkeypatch.setattr("time.sleep", lambda seconds: os.kill(os.getpid(), number))
    try:
        with place.claimed((0, 0)) as other, pytest.raises(Interrupted) as caught:
            assert other
            work(job, {}, ComparisonDir(tmp_path))
        assert (caught.value.exit_code, caught.value.hint) == (code, "repeat the command")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
