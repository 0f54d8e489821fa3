from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from siamkit.data.images import ImageSet, Sample
from siamkit.errors import ConfigError, DataError
from siamkit.evaluation.calibrating import calibrate, fit_probability, fit_threshold
from siamkit.evaluation.pairs import pairs_of, scores
from siamkit.evaluation.verification import equal_error_rate, roc

SOURCE = {
    "data": "photos", "part": "val", "digest": "d", "checkpoint": "c", "network": "n", "epoch": 1,
    "siamkit": "1",
}  # fmt: skip


def labelled(labels):
    samples = tuple(Sample(Path(str(i)), int(y), str(i)) for i, y in enumerate(labels))
    return ImageSet(samples, tuple(str(name) for name in range(int(max(labels)) + 1)))


def scored(same=2000, different=20_000, apart=2.0, seed=0):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(apart, 1, same), rng.normal(0, 1, different)])
    count = same + different
    return values, np.arange(count) < same, np.arange(count), np.arange(count)


def test_at_the_equal_error_rate_both_errors_are_that_rate():
    values, same, a, b = scored()
    found = fit_threshold(values, same, a, b)
    rate, threshold = equal_error_rate(roc(values, same))
    assert found.value == pytest.approx(threshold, abs=5e-3)
    assert found.far.rate == pytest.approx(rate, abs=1e-3)
    assert found.frr.rate == pytest.approx(rate, abs=1e-3)


@pytest.mark.parametrize("far", [0.1, 0.01, 0.001])
def test_a_rate_of_false_accepts_is_kept_as_closely_as_it_can_be(far):
    values, same, a, b = scored()
    found = fit_threshold(values, same, a, b, target="far", far=far)
    assert far - 1 / 20_000 < found.far.rate <= far
    assert found.far.rate == (values[~same] >= found.value).mean()
    assert found.frr.rate == (values[same] < found.value).mean()


def test_the_best_accuracy_is_that_of_balanced_pairs():
    values, same, a, b = scored()
    found = fit_threshold(values, same, a, b, target="accuracy")
    best = 1 - (found.far.rate + found.frr.rate) / 2
    assert found.value == pytest.approx(1.0, abs=0.15), "half-way between equal normals"
    for threshold in np.linspace(-1, 3, 50):
        assert balanced_accuracy_score(same, values >= threshold) <= best + 1e-12


@pytest.mark.parametrize("target", ["eer", "accuracy"])
def test_scores_that_part_the_two_kinds_are_parted_in_the_middle(target):
    values, same = [0.1, 0.2, 0.6, 0.7], [False, False, True, True]
    found = fit_threshold(values, same, range(4), range(4), target=target)
    assert found.value == pytest.approx(0.4)
    assert found.far.rate == found.frr.rate == 0


def test_a_rate_that_too_few_pairs_can_tell_is_refused_with_how_many_it_takes():
    values, same, a, b = scored(different=9_999)
    with pytest.raises(DataError, match=r"FAR of 0\.001, got 9999, allowed: 10000 or more"):
        fit_threshold(values, same, a, b, target="far", far=1e-3)
    fit_threshold(*scored(different=10_000), target="far", far=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [{"target": "far"}, {"target": "eer", "far": 0.1}, {"target": "far", "far": 1.0},
     {"target": "far", "far": 1.5}, {"target": "far", "far": 0.0}],
)  # fmt: skip
def test_target_and_rate_must_go_together(wrong):
    with pytest.raises(ConfigError, match="false accept rate"):
        fit_threshold(*scored(20, 20), **wrong)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=40),
    st.sampled_from(["eer", "accuracy"]),
)
def test_the_rates_are_those_at_the_threshold(rows, target):
    values, same = np.array([v / 20 for v, _ in rows]), np.array([s for _, s in rows])
    names = np.arange(len(rows))
    if same.all() or not same.any():
        with pytest.raises(DataError, match="pair"):
            fit_threshold(values, same, names, names, target=target)
        return
    found = fit_threshold(values, same, names, names, target=target)
    assert np.isfinite(found.value)
    assert found.far.rate == (values[~same] >= found.value).mean()
    assert found.frr.rate == (values[same] < found.value).mean()


def test_the_probability_is_that_of_two_normals_by_bayes():
    values, same, _, _ = scored(50_000, 50_000)
    slope, intercept = fit_probability(values, same)
    assert slope == pytest.approx(2.0, abs=0.05)  # log-odds of N(2, 1) to N(0, 1): 2 x - 2
    assert intercept == pytest.approx(-2.0, abs=0.05)


def test_how_many_pairs_there_are_of_each_kind_changes_nothing():
    few = fit_probability(*scored(50_000, 50_000)[:2])
    many = fit_probability(*scored(50_000, 500_000)[:2])
    assert many == pytest.approx(few, abs=0.06)


@pytest.mark.parametrize(("same", "different"), [((0, 3), (4, 0)), ((1, 2), (3, 1))])
def test_the_probabilities_of_two_scores_are_the_smoothed_shares_of_same_pairs(same, different):
    rows = [(score, kind) for kind, counts in ((True, same), (False, different))
            for score, count in enumerate(counts) for _ in range(count)]  # fmt: skip
    slope, intercept = fit_probability(*zip(*rows, strict=True))
    # Platt's targets, with half of the weight on each kind of pairs.
    yes, no = (sum(same) + 1) / (sum(same) + 2), 1 / (sum(different) + 2)
    for score in (0, 1):
        parts = same[score] / sum(same), different[score] / sum(different)
        expected = (parts[0] * yes + parts[1] * no) / sum(parts)
        found = 1 / (1 + np.exp(-slope * score - intercept))
        assert found == pytest.approx(expected, abs=1e-5)


def test_scores_that_part_the_kinds_still_have_a_finite_slope():
    slope, intercept = fit_probability([0.1, 0.2, 0.6, 0.7], [False, False, True, True])
    assert 0 < slope < 100
    # Lin, Lin & Weng: the targets are 1/4 and 3/4 with two pairs of each kind.
    middle = 1 / (1 + np.exp(-(slope * 0.65 + intercept)))
    assert middle == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("values", [[0.7, 0.6, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5]])
def test_what_is_no_better_than_chance_is_an_error(values):
    with pytest.raises(DataError, match="no better than chance"):
        fit_probability(values, [False, False, True, True])


def clustered(classes=30, images=5):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    centres = rng.standard_normal((classes, 8), dtype=np.float32)
    return centres[labels] + 0.6 * rng.standard_normal((len(labels), 8), dtype=np.float32), labels


def test_a_calibration_tells_what_it_was_fitted_on():
    embeddings, labels = clustered()
    found = calibrate(embeddings, labelled(labels), source=SOURCE)
    about = found.provenance
    assert (about.images, about.identities, about.same) == (150, 30, 30 * 10)
    assert about.different == 150 * 149 // 2 - 300 and about.all_pairs
    assert (about.data, about.checkpoint) == ("photos", "c")
    assert found.far.low < found.far.rate < found.far.high
    pairs = pairs_of(labels)
    values = scores(embeddings, pairs)
    assert found.far.rate == (values[~pairs.same] >= found.threshold).mean()
    assert calibrate(embeddings, labelled(labels), source=SOURCE) == found, "the draws are seeded"


def test_a_small_rate_has_as_many_pairs_drawn_as_it_takes():
    embeddings, labels = clustered(250, 6)
    found = calibrate(embeddings, labelled(labels), target="far", far=1e-5, source=SOURCE)
    assert found.provenance.different > 1_000_000 and found.far.rate <= 1e-5


@pytest.mark.parametrize("labels", [np.zeros(4, np.int64), np.arange(4)])
def test_one_kind_of_pairs_is_not_enough(labels):
    with pytest.raises(DataError, match=r"there are no (same|different) pairs"):
        calibrate(np.random.default_rng(0).standard_normal((4, 3)), labelled(labels), source=SOURCE)
