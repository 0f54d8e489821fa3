"""Class scores against a plain loop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.evaluation import class_scores as module
from siamkit.evaluation.class_scores import class_scores, score_blocks
from siamkit.portable.cosine import directions


def vectors(count, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def whole(labels):
    """Return labels as 0..C-1, and C."""
    names, places = np.unique(labels, return_inverse=True)
    return places.astype(np.int64), len(names)


def expected(embeddings, labels, image, label):
    unit = directions(embeddings)
    others = [float(unit[image] @ unit[j]) for j in np.flatnonzero(labels == label) if j != image]
    top = sorted(others, reverse=True)[:2]
    return sum(top) / len(top) if top else -np.inf


LABELS = st.lists(st.integers(0, 4), min_size=3, max_size=20).filter(lambda x: len(set(x)) > 1)


@settings(max_examples=40)
@given(LABELS, st.booleans())
def test_a_score_is_the_mean_of_the_two_nearest_images_of_a_class(given_labels, equal):
    labels, classes = whole(given_labels)
    embeddings = vectors(len(labels))
    if equal:
        embeddings[: len(labels) // 2] = embeddings[0]  # ties
    (rows, scores), *rest = score_blocks(embeddings, labels, classes)
    assert not rest and rows.tolist() == list(range(len(labels)))
    found = class_scores(embeddings, labels, classes)
    for image in range(len(labels)):
        plain = [expected(embeddings, labels, image, c) for c in range(classes)]
        np.testing.assert_allclose(scores[image], plain, atol=2e-6)
        own = plain[labels[image]]
        alone = own == -np.inf
        assert np.isnan(found.own[image]) == np.isnan(found.misplaced[image]) == alone
        others = {c: plain[c] for c in range(classes) if c != labels[image]}
        assert abs(found.other[image] - max(others.values())) < 2e-6
        assert abs(others[int(found.suggested[image])] - max(others.values())) < 2e-6
        rivals = found.rivals[image].tolist()
        assert len(set(rivals)) == len(rivals) == min(5, classes - 1)
        assert labels[image] not in rivals
        if not alone:
            for rival, beats in zip(rivals, found.beats[image], strict=True):
                assert beats == (others[rival] >= own) or abs(others[rival] - own) < 2e-6


def test_a_misplaced_image_mostly_looks_like_its_right_class():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6)
    embeddings = np.eye(20, dtype=np.float32)[labels] + 0.1 * rng.standard_normal(
        (120, 20), dtype=np.float32
    )
    found = class_scores(embeddings, labels, 20)
    assert (found.other - found.own).max() < 0 < found.misplaced.min()
    assert np.array_equal(class_scores(embeddings, labels, 20).misplaced, found.misplaced)


def test_blocks_change_nothing(monkeypatch):
    labels = np.arange(30) % 7
    before = class_scores(vectors(30), labels, 7)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 30 * 4)  # 4 rows at a time
    after = class_scores(vectors(30), labels, 7)
    for name in vars(before):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
