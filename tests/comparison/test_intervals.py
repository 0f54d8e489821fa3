from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import stdtrit

from siamkit.comparison.intervals import Difference, difference, mean
from siamkit.errors import DataError


def simulated(rng, gap, *, classes=30, seeds=3, folds=3, by_class=0.1, by_run=0.02, noise=0.1):
    """Two recipes whose true difference is ``gap``, over new classes and new runs."""
    of_class = rng.normal(0, by_class, classes)
    first, second = [], []
    for _ in range(seeds):
        order = rng.permutation(classes)
        for fold in range(folds):
            shift = rng.normal(0, by_run)
            one, other = {}, {}
            for c in order[fold::folds].tolist():
                n = 5
                other[str(c)] = (n, n * 0.5)
                one[str(c)] = (n, n * (0.5 + gap + of_class[c] + shift + rng.normal(0, noise)))
            first.append(one)
            second.append(other)
    return first, second


@pytest.mark.parametrize(("by_class", "by_run"), [(0.1, 0.0), (0.0, 0.05), (0.1, 0.05), (0.0, 0.0)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(by_class, by_run):
    rng = np.random.default_rng(0)
    hits, trials = 0, 300
    for _ in range(trials):
        found = difference(*simulated(rng, 0.07, by_class=by_class, by_run=by_run))
        hits += found.low <= 0.07 <= found.high
    # Two standard errors below 95 %; few clusters make the interval a little too wide.
    assert 0.925 <= hits / trials <= 0.995


def test_runs_that_differ_make_the_interval_wide():
    rng = np.random.default_rng(1)
    calm = difference(*simulated(rng, 0.1, by_class=0.01, by_run=0.001, noise=0.01))
    rough = difference(*simulated(rng, 0.1, by_class=0.01, by_run=0.1, noise=0.01))
    assert rough.half > 4 * calm.half
    assert calm.is_clear


def test_with_one_run_per_class_the_interval_is_that_of_the_mean_of_classes():
    # Every class in a run of its own: both clusters are the same, and so is what both count.
    values = [0.1, 0.3, 0.2, 0.6]
    first = [{str(i): (1, value)} for i, value in enumerate(values)]
    second = [{str(i): (1, 0.0)} for i in range(4)]
    found = difference(first, second)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    # The centre is exact; the width differs by the correction of the subtracted part.
    assert found.value == pytest.approx(0.3)
    assert found.half == pytest.approx((high - low) / 2, rel=0.2)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"a": (2, 1.0), "b": (3, 1.0)}, "the class 'b' has 2 queries for one arm and 3 for anoth"),
        ({"a": (2, 1.0)}, "the class 'b' has 2 queries for one arm and 0 for another"),
        ({"a": (2, 1.0), "b": (2, 1.0), "c": (1, 1.0)}, "the class 'c' has 0 queries for one arm"),
    ],
)
def test_recipes_that_were_measured_on_different_images_are_not_paired(other, told):
    one = {"a": (2, 1.0), "b": (2, 1.0)}
    assert difference([one, one], [one, one]).same
    with pytest.raises(DataError, match=f"{told}.*different images; compare them anew, in another"):
        difference([one, one], [one, other])


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abcd"), st.tuples(st.integers(1, 5), st.floats(0, 1)), min_size=1
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_recipe_does_not_differ_from_itself(runs):
    totals = [{name: (n, n * share) for name, (n, share) in run.items()} for run in runs]
    found = difference(totals, totals)
    assert found.value == 0
    assert found.same and not found.is_clear
    if found.half is not None:  # one query more or less, with Student's factor
        queries = sum(n for run in totals for n, _ in run.values())
        classes = len({name for run in totals for name in run})
        factor = stdtrit(min(classes, len(runs)) - 1, 0.975)
        assert found.half == pytest.approx(factor / queries)


def test_the_same_difference_everywhere_has_the_interval_of_one_query():
    first = [{"a": (10, 9.1), "b": (10, 8.1)}] * 3
    second = [{"a": (10, 8.1), "b": (10, 7.1)}] * 3
    found = difference(first, second)
    assert found.value == pytest.approx(0.1)
    assert found.half == pytest.approx(stdtrit(1, 0.975) / 60)
    assert not found.same


def test_the_difference_turns_its_sign_with_the_order():
    first, second = simulated(np.random.default_rng(3), 0.05)
    there, back = difference(first, second), difference(second, first)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_one_run_shows_no_variation():
    found = difference([{"a": (2, 1.0), "b": (2, 2.0)}], [{"a": (2, 0.0), "b": (2, 0.0)}])
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high, found.half, found.runs) == (None, None, None, 1)
    assert not found.is_clear


def test_queries_weigh_the_same_whatever_their_class():
    assert mean([{"a": (1, 1.0)}, {"b": (3, 0.0)}]) == pytest.approx(0.25)
    first = [{"a": (1, 1.0)}, {"b": (3, 0.0)}]
    assert difference(first, [{"a": (1, 0.0)}, {"b": (3, 0.0)}]).value == pytest.approx(0.25)


def test_a_wider_coverage_makes_a_wider_interval():
    first, second = simulated(np.random.default_rng(4), 0.05)
    assert difference(first, second, 0.99).half > difference(first, second, 0.95).half


def test_the_interval_is_that_of_two_clusters_computed_one_by_one():
    counts = {("r", "a"): 2, ("r", "b"): 1, ("s", "b"): 4, ("s", "c"): 3, ("t", "c"): 1}
    gaps = {("r", "a"): 1.0, ("r", "b"): -0.5, ("s", "b"): 2.5, ("s", "c"): 0.5, ("t", "c"): 0.25}
    first = [{c: (counts[r, c], gaps[r, c] + 1) for r, c in counts if r == run} for run in "rst"]
    second = [{c: (counts[r, c], 1.0) for r, c in counts if r == run} for run in "rst"]
    found = difference(first, second)
    queries = sum(counts.values())
    value = sum(gaps.values()) / queries
    rest = {key: gaps[key] - value * counts[key] for key in counts}

    def clustered(place):
        groups = {key[place] for key in counts}
        sums = [sum(r for key, r in rest.items() if key[place] == group) for group in groups]
        return sum(one**2 for one in sums) * len(groups) / (len(groups) - 1)

    by_run, by_class = clustered(0), clustered(1)
    both = sum(one**2 for one in rest.values())
    variance = max(by_run + by_class - both, by_run, by_class) / queries**2
    half = stats.t.ppf(0.975, 2) * variance**0.5
    assert (found.value, found.half) == (pytest.approx(value), pytest.approx(half))
    assert (found.low, found.high) == pytest.approx((value - half, value + half))
    assert found.runs == 3


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [
        (0.1, 0.3, True),
        (-0.3, -0.1, True),
        (-0.1, 0.1, False),
        (0.0, 0.2, False),
        (-0.2, 0.0, False),
    ],
)
def test_a_difference_is_clear_if_its_interval_excludes_0(low, high, clear):
    assert Difference((low + high) / 2, low, high, 3, same=False).is_clear is clear
