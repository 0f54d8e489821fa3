from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from siamkit.errors import DataError
from siamkit.evaluation.verification import (
    best_threshold,
    index_at_far,
    k_fold_accuracy,
    operating_points,
    roc,
    threshold_at,
    verification,
)
from siamkit.portable.rates import errors_at


def scored(same=2000, different=20_000, apart=2.0, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(apart, 1, same), rng.normal(0, 1, different)])
    return scores, np.arange(same + different) < same


def test_auc_and_curve_are_scikit_learns():
    scores, same = scored()
    assert verification(scores, same).auc == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    curve = roc(scores, same)
    assert np.array_equal(curve.far, far) and np.array_equal(curve.tar, tar)


def test_the_equal_error_rate_of_two_normals_is_known():
    found = verification(*scored(20_000, 20_000))
    assert found.eer == pytest.approx(0.15866, abs=0.01)  # Phi(-1)
    assert found.eer_threshold == pytest.approx(1.0, abs=0.03)


def test_at_the_threshold_of_the_equal_error_rate_both_errors_are_it():
    scores, same = scored()
    found = verification(scores, same)
    accepted = scores >= found.eer_threshold
    assert accepted[~same].mean() == pytest.approx(found.eer, abs=1e-3)
    assert (~accepted)[same].mean() == pytest.approx(found.eer, abs=1e-3)


def test_the_equal_error_rate_lies_between_the_points_of_the_curve():
    scores = [0.9, 0.8, 0.4, 0.7, 0.5, 0.3, 0.1]
    found = verification(scores, [True, True, True, False, False, False, False])
    # At 0.7, FAR is 1/4 and FRR 1/3; at 0.5, they are 1/2 and 1/3.
    assert found.eer == pytest.approx(1 / 3)
    assert found.eer_threshold == pytest.approx(0.7 - 0.2 / 3)


def test_rates_are_refused_where_too_few_pairs_could_tell_them():
    scores, same = scored(different=999)
    found = verification(scores, same)
    assert found.tar_at_far[1e-1] is not None
    assert found.tar_at_far[1e-2] is None and found.tar_at_far[1e-3] is None
    assert found.to_json()["tar@far=0.001"] is None
    enough = verification(*scored(different=1000))
    assert enough.tar_at_far[1e-2] is not None


def test_the_share_accepted_at_a_rate_is_the_best_that_keeps_it():
    scores, same = scored()
    found = verification(scores, same)
    for far, tar in found.tar_at_far.items():
        curve = roc(scores, same)
        threshold = threshold_at(curve, index_at_far(curve, far))
        accepted = scores >= threshold
        assert accepted[~same].mean() <= far
        assert accepted[same].mean() == pytest.approx(tar)


pairs = st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=4, max_size=60).filter(
    lambda p: 0 < sum(same for _, same in p) < len(p)
)


@given(pairs, st.floats(1e-3, 1))
def test_a_threshold_keeps_the_rate_and_the_next_lower_score_would_not(pairs, far):
    scores, same = (np.array(column) for column in zip(*pairs, strict=True))
    curve = roc(scores, same)
    threshold = threshold_at(curve, index_at_far(curve, far))
    accepted = scores >= threshold
    assert accepted[~same].mean() <= far + 1e-9
    lower = scores[~accepted]
    if len(lower):
        assert (scores >= lower.max())[~same].mean() > far


@given(pairs)
def test_no_threshold_is_more_accurate_than_the_best_one(pairs):
    scores, same = (np.array(column) for column in zip(*pairs, strict=True))
    threshold, accuracy = best_threshold(scores, same)
    assert ((scores >= threshold) == same).mean() == pytest.approx(accuracy)
    for other in [*scores, np.inf]:
        assert ((scores >= other) == same).mean() <= accuracy + 1e-12


@given(pairs)
def test_metrics_stay_within_their_bounds(pairs):
    scores, same = (np.array(column) for column in zip(*pairs, strict=True))
    found = verification(scores, same, fars=(0.5,))
    assert 0 <= found.auc <= 1 and 0 <= found.eer <= 1
    assert np.isfinite(found.eer_threshold)
    assert verification(-scores, same, fars=(0.5,)).auc == pytest.approx(1 - found.auc)


def test_a_fold_s_threshold_is_chosen_on_the_others():
    scores, same = scored(500, 500)
    folds = np.random.default_rng(1).integers(0, 10, 1000)
    found = k_fold_accuracy(scores, same, folds)
    assert len(found.accuracies) == 10
    for fold in range(10):
        held = folds == fold
        threshold, _ = best_threshold(scores[~held], same[~held])
        assert found.thresholds[fold] == threshold
        assert found.accuracies[fold] == ((scores[held] >= threshold) == same[held]).mean()
    assert found.mean == pytest.approx(np.mean(found.accuracies))
    assert found.standard_error == pytest.approx(np.std(found.accuracies, ddof=1) / 10**0.5)


def test_a_poisoned_fold_does_not_choose_its_own_threshold():
    scores = np.array([0.9, 0.1] * 20 + [5.0, 4.0])
    same = np.array([True, False] * 20 + [True, False])
    folds = np.array([0, 0] * 10 + [1, 1] * 10 + [2, 2])
    found = k_fold_accuracy(scores, same, folds)
    assert found.accuracies[2] == 0.5, "by its own threshold it would be 1"


@pytest.mark.parametrize(
    ("scores", "same", "what"),
    [
        ([0.1, 0.2], [True, True], "no different pair"),
        ([0.1, 0.2], [False, False], "no same pair"),
        ([0.1, float("nan")], [True, False], "NaN"),
        ([0.1], [True, False], "one score and one flag per pair"),
    ],
)
def test_what_cannot_be_scored_is_said(scores, same, what):
    with pytest.raises(DataError, match=what):
        verification(scores, same)
    with pytest.raises(DataError, match="two folds"):
        k_fold_accuracy([0.1, 0.2], [True, False], [0, 0])


def test_errors_are_counted_at_the_threshold():
    values = np.array([0.9, 0.4, 0.5, 0.1, 0.2])
    same = np.array([True, True, False, False, False])
    found = errors_at(values, same, 0.5)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert (found["far"], found["frr"]) == (pytest.approx(1 / 3), 0.5)
    assert errors_at(values[:2], same[:2], 0.5)["far"] is None


def test_a_curve_is_shown_at_the_rates_for_which_there_are_enough_pairs():
    scores, same = scored(200, 2000)
    curve = roc(scores, same)
    points = operating_points(curve, 2000, (0.1, 0.01, 0.001))
    assert [point.far for point in points] == [0.1, 0.01]
    for point in points:
        accepted = scores >= point.threshold
        assert accepted[~same].mean() <= point.far
        assert accepted[same].mean() == point.tar
    assert operating_points(curve, 2000, ()) == []
    rates = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
    assert tuple(point.far for point in operating_points(curve, 2000)) == rates
