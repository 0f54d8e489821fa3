"""Near duplicates by embedding."""

import numpy as np
import pytest

from siamkit.evaluation.near_duplicates import Twins, limit_of, near_duplicates


def unit(*angles):
    return np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad(angles)], np.float32)


def test_each_others_nearest_images_are_found_the_most_similar_first():
    found = near_duplicates(unit(0, 4, 90, 91, 200), limit=0.9)
    assert [(p.first, p.second) for p in found] == [(2, 3), (0, 1)]
    assert found[0].score == pytest.approx(np.cos(np.deg2rad(1)), abs=1e-5)


def test_an_image_whose_nearest_has_a_nearer_one_is_in_no_pair():
    assert [(p.first, p.second) for p in near_duplicates(unit(0, 3, 5), 0.5)] == [(1, 2)]


def test_pairs_below_the_limit_are_left_out():
    assert near_duplicates(unit(0, 10), limit=0.99) == []


def test_equal_images_are_near_duplicates():
    found = near_duplicates(np.concatenate([unit(0, 90), unit(90)]), limit=1.0)
    assert found == [Twins(1, 2, 1.0)]


def test_each_of_several_copies_is_in_a_pair():
    found = near_duplicates(unit(0, 90, 0, 0, 45, 0), limit=1.0)
    assert [(p.first, p.second) for p in found] == [(0, 2), (0, 3), (0, 5)]


def test_the_limit_is_what_nine_of_ten_copies_reach():
    copies = unit(*range(11))
    assert limit_of(unit(*[0] * 11), copies) == pytest.approx(np.cos(np.deg2rad(9)), abs=1e-5)
    assert limit_of(3 * unit(0), 5 * unit(0)) == pytest.approx(1)
