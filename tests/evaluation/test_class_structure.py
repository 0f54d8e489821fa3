"""Classes that look like one, and one that looks like two."""

import numpy as np
import pytest

from siamkit.evaluation.class_scores import ClassScores, class_scores
from siamkit.evaluation.class_structure import alike, divided


def images(classes=12, each=8, seed=0, width=16, spread=0.5):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = rng.standard_normal((classes, width))
    noise = spread * rng.standard_normal((len(labels), width))
    return (centres[labels] + noise).astype(np.float32), labels


def structure(embeddings, labels):
    classes = int(labels.max()) + 1
    scores = class_scores(embeddings, labels, classes)
    return alike(scores, labels, classes), divided(embeddings, labels, scores, classes)


def test_clear_classes_are_neither_alike_nor_divided():
    assert structure(*images()) == ([], [])


def test_a_class_under_two_names_looks_like_one():
    embeddings, labels = images()
    labels[labels == 3] = np.tile([3, 12], 4)
    pairs, _ = structure(embeddings, labels)
    assert [(p.first, p.second) for p in pairs] == [(3, 12)]
    assert 0.4 <= pairs[0].share <= 1


def test_one_image_of_another_class_does_not_make_two_classes_alike():
    embeddings, labels = images()
    labels[np.flatnonzero(labels == 3)[0]] = 4
    assert structure(embeddings, labels) == ([], [])


@pytest.mark.parametrize(
    ("size", "first", "second", "share"),
    [
        (10, 4, 4, 0.4),
        (12, 4, 5, None),  # less than 40 % of both
        (12, 4, 6, 10 / 24),
        (12, 3, 12, None),  # less than a third of the first
        (12, 12, 3, None),
        (12, 12, 4, 16 / 24),
        (10, 10, 0, None),
    ],
)
def test_alike_are_40_percent_of_both_classes_and_a_third_of_each(size, first, second, share):
    labels = np.repeat([0, 1], size)
    place = np.arange(2 * size) % size
    beats = (place < np.where(labels == 0, first, second))[:, None]
    rest = np.zeros(2 * size, np.float32)
    scores = ClassScores(rest, rest, 1 - labels, rest, 1 - labels[:, None], beats)
    pairs = alike(scores, labels, 2)
    assert [(p.first, p.second) for p in pairs] == ([] if share is None else [(0, 1)])
    assert [p.share for p in pairs] == ([] if share is None else [pytest.approx(share)])


def test_two_classes_under_one_name_look_like_two():
    embeddings, labels = images(classes=13)
    labels[labels == 12] = 5
    labels = np.delete(labels, [102, 103])
    embeddings = np.delete(embeddings, [102, 103], 0)
    pairs, (found,) = structure(embeddings, labels)
    assert not pairs and found.label == 5 and found.share >= 0.8
    assert found.parts == (tuple(range(40, 48)), tuple(range(96, 102))), "the larger part first"


def test_the_most_divided_class_comes_first():
    embeddings, labels = images(classes=14)
    labels[labels == 12], labels[labels == 13] = 5, 2
    # An image of class 2 leans to the other half.
    first, *_, last = np.flatnonzero(labels == 2)
    embeddings[first] = 0.8 * embeddings[first + 1] + 0.2 * embeddings[last]
    _, found = structure(embeddings, labels)
    assert [one.label for one in found] == [5, 2]
    assert found[0].share > found[1].share


def test_a_small_class_is_not_divided_and_hides_no_other():
    embeddings, labels = images(classes=3, each=3)
    assert structure(embeddings, labels)[1] == []
    embeddings, labels = images(classes=13)
    labels[labels == 12] = 5
    kept = (labels > 1) | (np.arange(len(labels)) % 8 < 2 + labels)  # 2 and 3 of the first classes
    _, found = structure(embeddings[kept], labels[kept])
    assert [one.label for one in found] == [5]


@pytest.mark.parametrize("few", [1, 2])
def test_a_part_of_a_divided_class_has_two_images_at_least(few):
    embeddings, labels = images(classes=13)
    labels[labels == 12] = 5
    kept = np.arange(len(labels)) < 96 + few
    _, found = structure(embeddings[kept], labels[kept])
    assert [len(one.parts[1]) for one in found] == ([2] if few == 2 else [])
