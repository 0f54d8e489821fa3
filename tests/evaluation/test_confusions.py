"""The classes that are confused most often."""

import numpy as np

from siamkit.evaluation.confusions import confusions
from siamkit.evaluation.neighbourhood import neighbourhood


def unit(*angles):
    return np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad(angles)], np.float32)


# Classes 0 and 1 are mixed up, 2 and 3 once, and 4 is apart.
ANGLES = [0, 4, 8, 1, 5, 9, 90, 95, 96, 99, 200, 201]
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4])


def found(most=9, **roles):
    return confusions(neighbourhood(unit(*ANGLES), LABELS, 3, **roles), LABELS, most)


def test_the_pairs_come_by_how_often_they_are_confused():
    first, second = found()
    assert first.classes == (0, 1) and (first.wrong, first.queries) == (6, 6)
    assert second.classes == (2, 3) and (second.wrong, second.queries) == (2, 4)
    assert found(most=1) == [first]


def test_the_example_is_a_query_and_its_nearest_image():
    for confusion in found():
        query, nearest = confusion.example
        assert {LABELS[query], LABELS[nearest]} == set(confusion.classes)
        scores = unit(*ANGLES) @ unit(*ANGLES)[query]
        scores[query] = -1
        assert (
            confusion.score == np.float32(scores.max()).round(5)
            or abs(confusion.score - scores.max()) < 1e-5
        )


def test_the_example_is_the_most_similar_one():
    near = neighbourhood(unit(*ANGLES), LABELS, 3)
    for confusion in confusions(near, LABELS, 9):
        ends = [
            (i, j)
            for i, j in enumerate(near.nearest[:, 0].tolist())
            if {LABELS[i], LABELS[j]} == set(confusion.classes)
        ]
        assert confusion.score == max(near.scores[i, 0] for i, _ in ends)
    angles = [0, 9, 90, 30, 33, 200]  # the images of 0 and 1 are 21 and 3 degrees apart
    labels = np.array([0, 1, 1, 0, 1, 0])
    (found,) = confusions(neighbourhood(unit(*angles), labels, 3), labels, 9)
    assert set(found.example) == {3, 4}


def test_only_queries_count():
    query = np.zeros(12, bool)
    query[[8, 10]] = True
    (only,) = found(query=query)
    assert only.classes == (2, 3) and (only.wrong, only.queries, only.example) == (1, 1, (8, 7))


def test_no_confusion_is_no_entry():
    labels = np.array([0, 0, 1, 1])
    assert confusions(neighbourhood(unit(0, 1, 90, 91), labels, 1), labels, 9) == []


def test_equally_near_images_count_in_any_order():
    vectors, labels = unit(0, 0, 0, 90, 91), np.array([0, 0, 1, 2, 2])
    for order in ([0, 1, 2, 3, 4], [2, 1, 0, 3, 4], [1, 2, 0, 4, 3]):
        near = neighbourhood(vectors[order], labels[order], 4)
        (one,) = confusions(near, labels[order], 9)
        assert (one.classes, one.wrong, one.queries) == ((0, 1), 2, 2)
        assert {int(labels[order][i]) for i in one.example} == {0, 1}


def test_all_equally_near_images_count_however_few_are_kept():
    vectors, labels = np.ones((20, 8), np.float32), np.repeat([0, 1], 10)
    for kept in (1, 6, 19):
        (one,) = confusions(neighbourhood(vectors, labels, kept), labels, 9)
        assert (one.classes, one.wrong, one.queries) == ((0, 1), 20, 20)
