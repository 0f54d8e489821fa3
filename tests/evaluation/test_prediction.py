from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from siamkit.evaluation.calibrating import fit_threshold
from siamkit.evaluation.prediction import _freedom, _quantile, _score_ends, predicted_rate


def people(identities, rng, *, dim=8, images=(4, 4), spread=0.6, confusable=False):
    """Return the scores and both identities of all pairs of images of new people.

    If ``confusable``, some of the people look alike.
    """
    centres = rng.normal(size=(identities, dim))
    if confusable:
        families = rng.normal(size=(identities, dim))[rng.integers(0, identities // 3, identities)]
        centres = families + 0.5 * centres
    names = np.repeat(np.arange(identities), rng.integers(images[0], images[1] + 1, identities))
    looks = centres[names] + spread * rng.normal(size=(len(names), dim))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    a, b = np.triu_indices(len(names), 1)
    return (looks @ looks.T)[a, b], names[a], names[b]


def transfer(identities, draws, target, far=None, **kind):
    """Fit a threshold on some people, and measure its error rates on others.

    Returns:
        The ends of the predicted interval and the measured rate, for FAR and FRR ``[2, draws, 3]``.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        scores, a, b = people(identities, rng, **kind)
        fitted = fit_threshold(scores, a == b, a, b, target=target, far=far)
        scores, a, b = people(identities, rng, **kind)
        accepted = scores >= fitted.value
        seen = accepted[a != b].mean(), (~accepted[a == b]).mean()
        found.append(
            [(r.low, r.high, s) for r, s in zip((fitted.far, fitted.frr), seen, strict=True)]
        )
    return np.array(found).transpose(1, 0, 2)


def covered(rows):
    low, high, seen = rows.T
    return float(((low <= seen) & (seen <= high)).mean())


@pytest.mark.parametrize(
    ("identities", "target", "far", "kind"),
    [
        (30, "eer", None, {}),
        (30, "far", 0.01, {}),
        (30, "accuracy", None, {}),
        (20, "eer", None, {"images": (2, 14)}),
        (40, "far", 0.01, {"confusable": True}),
    ],
)
def test_new_people_are_within_the_interval_about_as_often_as_it_says(
    identities, target, far, kind
):
    accepts, rejects = transfer(identities, 150, target, far, **kind)
    # 150 draws tell 95 % to within 3.5 %.
    assert covered(accepts) >= 0.91 and covered(rejects) >= 0.91
    # Nor is it so wide that it says nothing: luck alone spreads 95 % of the draws this far.
    for rows in (accepts, rejects):
        luck = np.subtract(*np.percentile(rows[:, 2], [97.5, 2.5]))
        assert np.median(rows[:, 1] - rows[:, 0]) < 2.8 * luck


@pytest.mark.slow
@pytest.mark.parametrize("confusable", [False, True])
@pytest.mark.parametrize(("identities", "images"), [(12, (2, 12)), (40, (2, 12)), (80, (4, 4))])
@pytest.mark.parametrize(("target", "far"), [("eer", None), ("far", 0.01), ("accuracy", None)])
def test_so_are_they_for_few_and_many_and_unequal_and_confusable_people(
    identities, images, confusable, target, far
):
    accepts, rejects = transfer(
        identities, 100, target, far, images=images, confusable=confusable, spread=0.7
    )
    assert covered(accepts) >= 0.9 and covered(rejects) >= 0.88


def test_pairs_that_share_identities_say_less_than_as_many_that_do_not():
    rng = np.random.default_rng(0)
    quirk = rng.random(40) < 0.3
    a, b = np.triu_indices(40, 1)
    wrong = quirk[a] & quirk[b]
    shared = predicted_rate(wrong, a, b)
    alone = np.arange(2 * len(wrong)).reshape(2, -1)
    apart = predicted_rate(wrong, *alone)
    assert shared.rate == apart.rate == wrong.mean()
    assert shared.high - shared.low > 2 * (apart.high - apart.low)


def test_independent_identities_have_the_interval_of_a_binomial_prediction():
    wrong = np.arange(1000) < 100
    found = predicted_rate(wrong, np.arange(1000), np.arange(1000))
    half = 1.96 * np.sqrt(1.5 * 2 * 0.1 * 0.9 / 1000)  # 1.5 for families
    assert found.low == pytest.approx(0.1 - half, abs=0.007)
    assert found.high == pytest.approx(0.1 + half, abs=0.007)


def plain(wrong, first, second):
    """Return the upper end of the interval on the logit scale, by loops over the definition."""
    rate, names = wrong.mean(), np.unique([first, second])
    shifts = []
    for name in names:
        left = (first != name) & (second != name)
        shifts.append(wrong[left].mean() - rate)
    units = {}
    for w, a, b in zip(wrong, first, second, strict=True):
        unit = tuple(sorted((a, b)))
        units[unit] = units.get(unit, 0) + w - rate

    def freedom(values):
        squares = np.square(values)
        return 2 * len(values) / (np.mean(squares**2) / np.mean(squares) ** 2 - 1)

    n = len(names)
    variance = 1.5 * (n - 1) / n * np.sum(np.square(shifts))
    quantile = student.ppf(0.975, min(freedom(shifts), freedom(list(units.values())), n - 1))
    odds = np.log(rate / (1 - rate)) + quantile * np.sqrt(2 * variance) / (rate * (1 - rate))
    return 1 / (1 + np.exp(-odds))


def test_a_small_rate_has_the_upper_end_of_its_definition():
    rng = np.random.default_rng(0)
    scores, a, b = people(25, rng, images=(2, 9), confusable=True)
    far = (scores >= np.quantile(scores[a != b], 0.98))[a != b]
    assert predicted_rate(far, a[a != b], b[a != b]).high == pytest.approx(
        plain(far, a[a != b], b[a != b])
    )
    frr = (scores < np.quantile(scores[a == b], 0.05))[a == b]
    assert predicted_rate(frr, a[a == b], b[a == b]).high == pytest.approx(
        plain(frr, a[a == b], b[a == b])
    )


def test_where_there_was_no_error_the_interval_is_that_of_the_identities():
    a, b = np.triu_indices(20, 1)  # 190 pairs of identities
    found = predicted_rate(np.zeros(190, bool), a, b)
    assert (found.rate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1.5 * 1.96**2 / 190, rel=0.05)
    more = predicted_rate(np.zeros(1900, bool), np.tile(a, 10), np.tile(b, 10))
    assert more.high == pytest.approx(found.high), "more images of them tell nothing more"
    every = predicted_rate(np.ones(190, bool), a, b)
    assert (every.high, 1 - every.low) == (1.0, pytest.approx(found.high))


def test_one_identity_tells_nothing_of_others():
    one = np.zeros(6, np.int64)
    found = predicted_rate(np.arange(6) < 3, one, one)
    assert (found.rate, found.low, found.high) == (0.5, 0.0, 1.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=60
    )
)
def test_the_rate_is_within_its_interval_and_both_within_0_and_1(rows):
    a, b, wrong = (np.array(column) for column in zip(*rows, strict=True))
    found = predicted_rate(wrong, a, b)
    assert 0 <= found.low <= found.rate <= found.high <= 1
    other = predicted_rate(~wrong, b, a)
    assert (1 - other.high, 1 - other.low) == pytest.approx((found.low, found.high))
    assert found.high > found.low


def test_the_degrees_of_freedom_are_those_of_equal_shares_at_most():
    assert _freedom(np.zeros(5)) == 1.0
    assert _freedom(np.ones(5)) == 4.0
    assert _freedom(np.array([1.0])) == 1.0
    assert _freedom(np.array([1.0, 0, 0, 0])) == pytest.approx(2 * 4 / 3)
    # Normal shares: the square has a kurtosis of 3, so there are as many as shares.
    shares = np.random.default_rng(0).standard_normal(20_000)
    assert _freedom(shares) == pytest.approx(20_000, rel=0.05)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("draws", [20, 500])
def test_the_ends_of_the_score_interval_solve_its_equation(rate, draws):
    width = 2 * _quantile(30) ** 2 / draws
    low, high = _score_ends(rate, draws, 30)
    assert low < rate < high
    for end in (low, high):
        if 0 < end < 1:
            common = (end + rate) / 2
            assert (end - rate) ** 2 == pytest.approx(width * common * (1 - common))
