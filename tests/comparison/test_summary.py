from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from siamkit.comparison.arms import CLOSED, UNTRAINED, Arm
from siamkit.comparison.compare import Compared
from siamkit.comparison.plan import Plan
from siamkit.comparison.race import Stop, race
from siamkit.comparison.results import ArmResult
from siamkit.comparison.summary import Tried, _sentence, summary
from siamkit.config import RunConfig

ARMS = (Arm(UNTRAINED, trains=False), Arm(CLOSED, trains=False), Arm("a"), Arm("b"))


def result(value, seconds, number, noise=0.02):
    rng = np.random.default_rng(number)
    parts = {
        name: {
            str(c): (10, 10 * float(np.clip(value + noise * rng.normal(), 0, 1))) for c in range(12)
        }
        for name in ("recall@1", "map@r")
    }
    phases = ({"first_epoch": 1, "trainable": 5, "parameters": 10, "stages": ["head"]},)
    return ArmResult(parts, parts, seconds, 1.0, 0.0, 3, 2, 30, 300, phases, notices=("said",))


def compared(values, seconds=None, rounds=6, noise=0.02, **options):
    plan = Plan(ARMS, 2, (0, 1, 2), **options)
    seconds = seconds or {}
    results = {
        (arm, n): result(value, seconds.get(arm, 2.0), 50 * arm + n, noise)
        for arm, value in values.items()
        for n in range(rounds)
    }
    return Compared(
        plan,
        results,
        race(plan, results),
        "class-disjoint: 6 train",
        ("about the data",),
        RunConfig(),
    )


EVEN = {0: 0.5, 1: 0.55, 2: 0.7, 3: 0.8}


def test_a_clear_difference_is_said_with_its_interval():
    found = summary(compared(EVEN))
    assert found["best"] == "b"
    first, second, *others = found["verdict"]
    assert re.fullmatch(r"'b' is the best: recall@1 0\.\d+ on held-out classes, in 6 runs\.", first)
    assert second.startswith("'b' beats 'a' by 0.")
    assert " ± 0.0" in second
    assert len(others) == 2


def test_what_cannot_be_told_apart_is_said_with_its_cost():
    close = EVEN | {2: 0.8}
    dear = summary(compared(close, {2: 2.8, 3: 2.0}, noise=0.2))
    other = {"a", "b"} - {dear["best"]}
    sentence = next(s for s in dear["verdict"] if "cannot be told" in s)
    assert sentence.startswith(repr(other.pop()))
    cost = {"a": "1.4 times as much", "b": "29% less"}[next(iter({"a", "b"} - {dear["best"]}))]
    assert sentence.endswith(f"and costs {cost}.")
    even = summary(compared(close, noise=0.2))
    assert any(s.endswith("and costs about as much.") for s in even["verdict"])


def test_a_network_without_training_can_be_the_best():
    found = summary(compared(EVEN | {1: 0.9}))
    assert found["best"] == CLOSED
    assert found["verdict"][-1].startswith("No training pays on this data")


def test_a_closed_form_that_cannot_be_told_apart_needs_no_training():
    found = summary(compared(EVEN | {1: 0.8, 3: 0.805}, noise=0.2))
    text = " ".join(found["verdict"])
    assert "needs no training" in text or found["best"] == CLOSED


def test_one_run_tells_nothing_about_chance():
    found = summary(compared(EVEN, rounds=1))
    assert all(row["interval"] is None for row in found["arms"])
    assert any("in one run, which does not tell" in sentence for sentence in found["verdict"])


def test_of_two_arms_with_one_common_run_the_higher_one_is_named_first():
    for value, told in ((0.1, "'a' is 0.100 above 'b' in"), (-0.1, "'b' is 0.100 above 'a' in")):
        done = compared({2: 0.5, 3: 0.5 - value}, rounds=1, noise=0.0)
        a, b = (Tried(ARMS[n], n, {0: done.results[n, 0]}) for n in (2, 3))
        assert _sentence(a, b, a.less(b, "recall@1"), "budget").startswith(told)


def test_rows_are_sorted_and_hold_the_facts_of_the_runs():
    found = summary(compared(EVEN, {3: 4.0}))
    assert [row["name"] for row in found["arms"]] == ["b", "a", CLOSED, UNTRAINED]
    best = found["arms"][0]
    assert (best["runs"], best["seconds"], best["epochs"], best["images"]) == (6, 4.0, 3, 300)
    assert best["to_best"] is None
    assert best["best_epochs"] == [2] * 6
    assert found["arms"][1]["to_best"]["value"] < 0
    assert found["arms"][1]["to_best"]["clear"]
    assert found["seconds"] == pytest.approx(6 * (4 + 2 + 2 + 2) + 24)
    assert found["features_seconds"] == 24
    assert found["notices"] == ["about the data"]


def test_an_arm_that_stopped_is_compared_over_the_common_runs():
    done = compared(EVEN | {2: 0.3})
    assert done.race.stopped[2].why == "hopeless"
    some = {unit: r for unit, r in done.results.items() if unit[0] != 2 or unit[1] < 2}
    found = summary(replace(done, results=some))
    (row,) = (row for row in found["arms"] if row["name"] == "a")
    assert row["runs"] == 2
    assert row["stopped"]["why"] == "hopeless"
    assert any(s.endswith("in 2 common runs.") for s in found["verdict"])


def test_only_rounds_that_all_arms_finished_decide_which_is_the_best():
    """The first fold is easy and the second one hard. The budget left no time for arm b there."""
    easy, hard = {0: 0.6, 1: 0.7, 2: 0.9, 3: 0.88}, {0: 0.3, 1: 0.4, 2: 0.6}
    done = compared(easy, rounds=1, noise=0.0, budget=19.0)
    results = done.results | {(arm, 1): result(hard[arm], 2.0, 0, noise=0.0) for arm in hard}
    state = race(done.plan, results)
    assert (state.round, state.over_budget, dict(state.stopped)) == (1, True, {})
    found = summary(replace(done, results=results, race=state))
    assert found["best"] == "a"
    assert [row["name"] for row in found["arms"]] == ["a", "b", CLOSED, UNTRAINED]
    assert [row["value"] for row in found["arms"]] == pytest.approx([0.9, 0.88, 0.7, 0.6])
    assert {row["runs"] for row in found["arms"]} == {1} == {found["rounds"]}
    assert found["verdict"][0].endswith("0.900 on held-out classes, in 1 run.")
    assert found["seconds"] == 7 * 3.0, "all runs took time"


def test_a_stopped_arm_has_the_rounds_until_it_was_stopped():
    done = compared(EVEN | {2: 0.3}, rounds=3)
    assert done.race.stopped[2].rounds < 3
    early = {unit: r for unit, r in done.results.items() if unit[0] != 2 or unit[1] < 2}
    state = race(done.plan, early)
    rows = {row["name"]: row for row in summary(replace(done, results=early, race=state))["arms"]}
    assert {name: row["runs"] for name, row in rows.items()} == {
        "a": 2, "b": 3, CLOSED: 3, UNTRAINED: 3,
    }  # fmt: skip
    assert rows["a"]["stopped"] is not None and rows["a"]["to_best"]["runs"] == 2


def test_the_classes_that_differ_most_come_first():
    done = compared(EVEN, noise=0.0)
    results = dict(done.results)
    for n in range(6):
        r = results[3, n]
        totals = dict(r.test["recall@1"])
        totals["7"] = (10, 0.0)
        results[3, n] = ArmResult(r.val, {**r.test, "recall@1": totals}, r.seconds)
    found = summary(replace(done, results=results))
    assert found["classes"][0]["class"] == "7"
    assert found["classes"][0]["means"]["b"] == 0.0
    assert found["classes"][0]["queries"] == 60


def test_of_equals_the_cheaper_one_is_the_best():
    found = summary(compared({0: 0.5, 1: 0.7, 2: 0.7, 3: 0.7}, {2: 5.0, 3: 3.0}, noise=0.0))
    assert found["best"] == CLOSED
    assert "'a' equals 'closed form' in every run." in found["verdict"]
    found = summary(compared({0: 0.5, 1: 0.6, 2: 0.7, 3: 0.7}, {2: 5.0, 3: 3.0}, noise=0.0))
    assert found["best"] == "b"


def test_equal_recall_is_decided_by_the_other_metric():
    done = compared({0: 0.7, 1: 0.7, 2: 0.5, 3: 0.5}, noise=0.0)
    better = result(0.75, 1, 0, noise=0.0).test["map@r"]
    results = {
        (arm, n): r if arm != 1 else replace(r, test={**r.test, "map@r": better})
        for (arm, n), r in done.results.items()
    }
    assert summary(replace(done, results=results))["best"] == CLOSED


def test_an_arm_that_was_stopped_but_better_is_not_said_to_be_equal():
    done = compared(EVEN | {2: 0.3})
    results = dict(done.results)
    for n in range(6):
        good = result(0.95, 2.0, n)
        results[2, n] = replace(results[2, n], test=good.test)
    found = summary(replace(done, results=results))
    assert found["best"] == "b"
    assert found["arms"][0]["name"] == "b", "the best arm comes first"
    (sentence,) = (s for s in found["verdict"][1:] if "'a'" in s)
    assert sentence.startswith("'a' was better than 'b' by 0.1")
    assert sentence.endswith("but was stopped because it was worse on validation images.")


def failing(done, arms):
    """The comparison, in which the third run of some arms failed."""
    results = {unit: r for unit, r in done.results.items() if unit[0] not in arms or unit[1] < 2}
    results |= {(arm, 2): ArmResult(failed="the loss is NaN") for arm in arms}
    return replace(done, results=results, race=race(done.plan, results))


def test_an_arm_that_failed_is_not_said_to_be_worse():
    found = summary(failing(compared(EVEN | {2: 0.95}), (2,)))
    assert found["best"] == "b"
    (sentence,) = (s for s in found["verdict"][1:] if "'a'" in s)
    assert sentence.startswith("'a' was better than 'b' by 0.1")
    assert sentence.endswith("in 2 common runs, but was stopped because a run of it failed.")


def test_training_is_not_said_to_be_useless_if_it_may_be_as_good():
    found = summary(compared({0: 0.5, 1: 0.73, 2: 0.7, 3: 0.3}, noise=0.2))
    assert found["best"] == CLOSED
    told = "These runs do not show that training pays on this data: the best network is not trained"
    assert found["verdict"][-1].startswith(told)
    equal = summary(compared({0: 0.5, 1: 0.7, 2: 0.7, 3: 0.3}, noise=0.0))
    assert equal["best"] == CLOSED
    assert equal["verdict"][-1].startswith("No training pays")


def test_training_is_not_said_to_be_useless_if_a_stopped_arm_was_better():
    done = compared({0: 0.6, 1: 0.8, 2: 0.7, 3: 0.9})
    left = {unit: r for unit, r in done.results.items() if unit[0] != 3 or unit[1] < 4}
    state = replace(done.race, stopped={3: Stop(4, "budget")})
    verdict = summary(replace(done, results=left, race=state))["verdict"]
    assert verdict[0].startswith("'closed form' is the best")
    assert any(s.startswith("'b' was better than 'closed form' by") for s in verdict)
    assert not any("training pays" in sentence for sentence in verdict)


def test_training_is_not_said_to_be_useless_if_nothing_was_trained():
    """As with ``--epochs 0``."""
    done = compared(EVEN | {1: 0.9})
    still = {unit: replace(result, epochs=0) for unit, result in done.results.items()}
    assert "No training pays" not in " ".join(summary(replace(done, results=still))["verdict"])


def test_training_is_not_said_to_be_useless_if_it_failed():
    useless = "No training pays"
    found = summary(failing(compared(EVEN), (2, 3)))
    assert found["best"] == CLOSED
    assert not any(useless in sentence for sentence in found["verdict"])
    one_failed = summary(failing(compared(EVEN | {0: 0.9}), (3,)))
    assert one_failed["best"] == UNTRAINED
    assert any(useless in sentence for sentence in one_failed["verdict"])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (1.14, "about as much"), (1.15, "1.1 times as much"), (1.5, "1.5 times as much"),
        (0.88, "about as much"), (0.86, "14% less"), (0.5, "50% less"),
    ],
)  # fmt: skip
def test_another_time_is_told_from_15_percent_on(other, told):
    """The arms differ by chance: 'a' is better in the even runs, 'b' a little more in the odd."""
    done = compared({0: 0.1, 1: 0.1, 2: 0.7, 3: 0.7}, {2: other, 3: 1.0}, noise=0.0)
    results = dict(done.results)
    for n in range(6):
        value = result(0.71 if n % 2 else 0.6901, 1.0, 0, noise=0.0).test
        results[3, n] = replace(results[3, n], test=value)
    found = summary(replace(done, results=results))
    assert found["best"] == "b"
    (sentence,) = (s for s in found["verdict"][1:] if s.startswith("'a'"))
    assert sentence.startswith("'a' cannot be told from 'b' (-0.000 ± 0.0")
    assert sentence.endswith(f"and costs {told}.")


def test_of_a_network_that_takes_no_time_no_ratio_is_told():
    done = compared({0: 0.1, 1: 0.1, 2: 0.7, 3: 0.7}, {2: 5.0, 3: 0.0}, noise=0.0)
    results = dict(done.results)
    for n in range(6):
        value = result(0.71 if n % 2 else 0.6901, 1.0, 0, noise=0.0).test
        results[3, n] = replace(results[3, n], test=value)
    (sentence,) = (s for s in summary(replace(done, results=results))["verdict"][1:] if "'a'" in s)
    assert sentence.endswith("and costs about as much.")


def test_classes_in_which_the_arms_agree_are_not_shown():
    assert summary(compared(dict.fromkeys(EVEN, 0.7), noise=0.0))["classes"] == []


def test_at_most_twenty_classes_are_shown_those_with_many_queries_first():
    done = compared(EVEN, noise=0.0)
    names = [f"{number:02}" for number in range(30)]
    results = {}
    for (arm, n), r in done.results.items():
        totals = {
            name: (10 + place, (10 + place) * (0.5 + 0.1 * (arm == 3) * (place > 0)))
            for place, name in enumerate(names)
        }
        results[arm, n] = replace(r, test={**r.test, "recall@1": totals, "map@r": totals})
    found = summary(replace(done, results=results))["classes"]
    assert [row["class"] for row in found] == names[:9:-1]
    assert (found[0]["queries"], found[0]["means"]["b"]) == (6 * 39, pytest.approx(0.6))


def test_arms_of_fewer_runs_are_not_compared_by_class():
    done = compared(EVEN)
    some = {unit: r for unit, r in done.results.items() if unit[0] != 0 or unit[1] < 2}
    found = summary(replace(done, results=some))
    assert all(set(row["means"]) == {CLOSED, "a", "b"} for row in found["classes"])


def test_intervals_of_means_stay_within_the_range_of_the_metric():
    rows = summary(compared(EVEN | {3: 0.99}, rounds=2, noise=0.3))["arms"]
    assert all(0 <= row["interval"][0] <= row["interval"][1] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("class-disjoint: 4 classes train", "held-out classes"),
        ("by group: 4 groups train", "held-out groups"),
        ("within classes: 9 images train", "held-out images"),
    ],
)
def test_what_is_held_out_is_said(how, words):
    found = summary(replace(compared(EVEN), how=how))
    assert f"on {words}, in 6 runs" in found["verdict"][0]


def test_failures_of_every_round_are_listed():
    done = compared(EVEN)
    results = {**done.results, (2, 3): ArmResult(failed="the loss is NaN")}
    found = summary(replace(done, results=results))
    assert found["failed"] == [{"name": "a", "round": 4, "why": "the loss is NaN"}]


def test_arms_without_a_common_run_have_no_difference():
    one, other = (Tried(ARMS[2], 2, {n: result(0.5, 1.0, n)}) for n in (0, 1))
    assert one.less(other, "recall@1") is None
    assert one.less(one, "recall@1").same
