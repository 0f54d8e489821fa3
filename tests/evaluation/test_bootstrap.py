from __future__ import annotations

import numpy as np
import pytest

from siamkit.errors import DataError
from siamkit.evaluation.bootstrap import area, eer, identity_intervals, tar_at
from siamkit.evaluation.verification import verification


def pairs_of(identities=30, images=5, spread=0.6, seed=0):
    """Return the scores and both identities of all pairs of images.

    The embedding of an image is a random vector of its identity, plus noise.
    """
    rng = np.random.default_rng(seed)
    looks = np.repeat(rng.normal(size=(identities, 8)), images, 0)
    looks = looks + spread * rng.normal(size=looks.shape)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    names = np.repeat(np.arange(identities), images)
    a, b = np.triu_indices(len(names), 1)
    return (looks @ looks.T)[a, b], names[a], names[b]


def test_the_interval_holds_the_estimate_and_shrinks_with_more_identities():
    widths = []
    for identities in (10, 60):
        scores, a, b = pairs_of(identities)
        found = identity_intervals(scores, a == b, a, b, {"auc": area, "eer": eer}, draws=300)
        whole = verification(scores, a == b)
        for name, value in (("auc", whole.auc), ("eer", whole.eer)):
            low, high = found[name]
            assert low <= value <= high, name
        widths.append(found["auc"][1] - found["auc"][0])
    assert widths[1] < 0.7 * widths[0]


def test_it_is_wider_than_if_pairs_were_independent():
    scores, a, b = pairs_of(20)
    by_identity = identity_intervals(scores, a == b, a, b, {"auc": area}, draws=300)["auc"]
    rng = np.random.default_rng(0)
    same = a == b
    naive = []
    for _ in range(200):
        chosen = rng.integers(0, len(scores), len(scores))
        naive.append(verification(scores[chosen], same[chosen]).auc)
    low, high = np.percentile(naive, (2.5, 97.5))
    assert by_identity[1] - by_identity[0] > 1.5 * (high - low)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = np.mean([verification(s, a == b).auc for s, a, b in map(_draw, range(100, 200))])
    covered = 0
    for seed in range(40):
        scores, a, b = _draw(seed)
        low, high = identity_intervals(scores, a == b, a, b, {"auc": area}, draws=200, seed=seed)[
            "auc"
        ]
        covered += low <= truth <= high
    assert covered >= 33


def _draw(seed):
    return pairs_of(25, 4, seed=seed)


def test_the_share_accepted_at_a_rate_lies_in_its_interval():
    scores, a, b = pairs_of()
    found = identity_intervals(scores, a == b, a, b, {"tar": tar_at(0.1)}, draws=200)
    tar = verification(scores, a == b).tar_at_far[0.1]
    assert found["tar"][0] <= tar <= found["tar"][1]


def test_equal_scores_are_one_point_of_the_curve():
    a, b = np.triu_indices(4)  # one same pair per identity
    scores = np.ones(len(a))
    found = identity_intervals(scores, a == b, a, b, {"auc": area}, draws=50)
    assert found["auc"] == (0.5, 0.5)


def test_a_curve_goes_from_nothing_to_everything_accepted():
    # Each resample with both kinds of pairs has two thresholds, whatever it drew.
    a, b = np.triu_indices(4)
    scores = np.where(a == b, 0.9, 0.1)
    read = {
        "points": lambda curve: float(len(curve.far)),
        "first": lambda curve: float(curve.far[0] + curve.tar[0]),
        "last": lambda curve: float(curve.far[-1] + curve.tar[-1]),
        "lowest": lambda curve: float(curve.thresholds[-1]),
        "cuts": lambda curve: float(len(curve.thresholds)),
    }
    found = identity_intervals(scores, a == b, a, b, read, draws=20)
    expected = {"points": 3, "first": 0, "last": 2, "lowest": 0.1, "cuts": 3}
    assert found == {name: (value, value) for name, value in expected.items()}


def test_the_same_seed_gives_the_same_interval():
    scores, a, b = pairs_of(10)
    one, two, other = (
        identity_intervals(scores, a == b, a, b, {"auc": area}, draws=50, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one == two != other


def test_without_both_kinds_of_pairs_there_is_no_interval():
    with pytest.raises(DataError, match="same and different"):
        identity_intervals([0.1, 0.2], [True, True], [0, 1], [0, 1], {"auc": area})


@pytest.mark.parametrize("identities", [2, 3])
def test_too_few_identities_have_no_interval(identities):
    scores, a, b = pairs_of(identities)
    told = rf"too few identities to resample, got {identities}, allowed: 4 or more"
    with pytest.raises(DataError, match=told):
        identity_intervals(scores, a == b, a, b, {"auc": area})
    scores, a, b = pairs_of(4)
    assert identity_intervals(scores, a == b, a, b, {"auc": area}, draws=50)["auc"][0] < 1


def test_resamples_that_are_all_alike_have_no_interval():
    scores, a, b = pairs_of(4)
    with pytest.raises(DataError, match="the resamples are all alike"):
        identity_intervals(scores, a == b, a, b, {"auc": area}, draws=1)


def test_known_pairs_that_contradict_each_other_count_as_they_are_said_to_be():
    scores, a, b = pairs_of(12)
    kept = np.concatenate([np.flatnonzero(a == b), np.flatnonzero(a != b)[:60]])
    scores, a, b = scores[kept], a[kept], b[kept]
    said = a == b
    said[:120:2] = False  # different, though of one identity
    low, high = identity_intervals(scores, said, a, b, {"auc": area}, draws=200)["auc"]
    assert low <= verification(scores, said).auc <= high
    assert high < verification(scores, a == b).auc
