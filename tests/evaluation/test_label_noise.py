"""Wrong labels are found, and their share is estimated; correct labels raise few suspicions."""

import numpy as np
import pytest

from siamkit.evaluation.class_scores import ClassScores, class_scores
from siamkit.evaluation.label_noise import label_noise


def images(classes, each, spread, rate, seed=0, width=24):
    """Return embeddings, labels of which a share is wrong, and which are wrong."""
    rng = np.random.default_rng(seed)
    right = np.repeat(np.arange(classes), each)
    centres = rng.standard_normal((classes, width))
    embeddings = centres[right] + spread * rng.standard_normal((len(right), width))
    labels, wrong = right.copy(), np.zeros(len(right), bool)
    chosen = rng.permutation(len(right))[: round(rate * len(right))]
    labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    wrong[chosen] = True
    return embeddings.astype(np.float32), labels, wrong


def found(embeddings, labels, **options):
    classes = int(labels.max()) + 1
    return label_noise(class_scores(embeddings, labels, classes), **options)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_wrong_labels_are_found_and_counted(spread, rate):
    embeddings, labels, wrong = images(40, 12, spread, rate)
    noise = found(embeddings, labels)
    hits = wrong[noise.suspects]
    assert hits.mean() >= 0.5 and hits.sum() >= 0.7 * wrong.sum()
    assert noise.share == pytest.approx(rate, rel=0.45)
    assert noise.precision is not None and noise.precision >= 0.5
    assert hits[: len(hits) // 3].mean() >= hits.mean(), "the most suspicious come first"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_correct_labels_raise_few_suspicions(spread, seed):
    embeddings, labels, _ = images(40, 12, spread, 0, seed)
    noise = found(embeddings, labels)
    assert len(noise.suspects) <= 0.02 * len(labels)
    assert noise.share is not None and noise.share <= 0.01
    # At a spread of 1.5, the classes overlap, and a margin alone would suspect half of the images.
    assert (noise.contradicted > 0.35) == (spread == 1.5)


def test_a_network_that_knows_nothing_suspects_nothing():
    embeddings, labels, _ = images(40, 12, 3.0, 0.1)
    noise = found(embeddings, labels)
    assert noise.share is noise.precision is None and not len(noise.suspects)
    assert noise.contradicted > 0.8


def test_the_asked_precision_makes_the_list_longer_or_shorter():
    embeddings, labels, wrong = images(40, 12, 1.0, 0.1)
    many, few = (found(embeddings, labels, precision=p) for p in (0.3, 0.8))
    assert len(few.suspects) < len(many.suspects)
    assert np.array_equal(many.suspects[: len(few.suspects)], few.suspects)
    assert wrong[few.suspects].mean() > wrong[many.suspects].mean()


def test_the_list_is_the_longest_with_the_asked_precision():
    embeddings, labels, _ = images(40, 12, 1.0, 0.1)
    noise = found(embeddings, labels, precision=0.6)
    assert noise.precision is not None and noise.precision >= 0.6
    again = found(embeddings, labels, precision=noise.precision)
    assert np.array_equal(again.suspects, noise.suspects)
    assert len(found(embeddings, labels, precision=noise.precision + 1e-6).suspects) < len(
        noise.suspects
    )


def test_where_no_wrong_label_would_look_suspicious_none_is_estimated():
    labels, one = np.tile([0, 1], 5), np.ones(10, np.float32)
    rivals, beats = labels[:, None], np.zeros((10, 1), bool)
    # With a wrong label, the margin of each image would be below those of all images.
    scores = ClassScores(0.9 * one, 0.8 * one, labels, -0.5 * one, rivals, beats)
    noise = label_noise(scores)
    assert noise.share == 0 and noise.precision is None and not len(noise.suspects)


def test_the_only_image_of_a_class_is_never_suspected():
    embeddings, labels, _ = images(10, 6, 0.3, 0)
    labels = np.append(labels, 10)
    noise = found(np.concatenate([embeddings, embeddings[:1]]), labels)
    assert np.isnan(noise.margins[-1]) and len(labels) - 1 not in noise.suspects


def test_two_classes_and_single_images_are_enough():
    embeddings, labels, wrong = images(2, 60, 0.3, 0.05)
    noise = found(embeddings, labels)
    assert wrong[noise.suspects].mean() >= 0.5
    lonely = found(embeddings[:5], np.arange(5))
    assert not len(lonely.suspects) and lonely.precision is None and lonely.share is None
