from __future__ import annotations

import numpy as np
import pytest

from siamkit.errors import DataError
from siamkit.evaluation.few_shot import few_shot


def clustered(spread, classes=10, images=20, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images)
    centres = rng.standard_normal((classes, dim), dtype=np.float32)
    noise = rng.standard_normal((len(labels), dim), dtype=np.float32)
    return centres[labels] + spread * noise, labels


def test_separate_classes_are_told_and_noise_is_guessed():
    assert few_shot(*clustered(0.01)).accuracy == 1.0
    noise = few_shot(
        np.random.default_rng(0).standard_normal((200, 16)), np.repeat(np.arange(10), 20)
    )
    assert noise.accuracy == pytest.approx(0.2, abs=0.05)
    assert noise.to_json()["chance"] == 0.2


def test_more_shots_and_fewer_ways_are_easier():
    data = clustered(2.0)
    one, five = (few_shot(*data, shots=shots) for shots in (1, 5))
    two = few_shot(*data, ways=2)
    assert five.accuracy > one.accuracy + 0.05 and two.accuracy > one.accuracy + 0.05


@pytest.mark.slow
def test_the_margin_covers_what_other_seeds_give():
    data = clustered(2.0)
    first = few_shot(*data, episodes=200)
    means = [few_shot(*data, episodes=200, seed=seed).accuracy for seed in range(1, 21)]
    centre = sum(means) / len(means)
    inside = sum(abs(mean - centre) <= first.margin for mean in means)
    assert 15 <= inside, "about 19 of 20"
    assert first.margin > 0.001


@pytest.mark.slow
def test_scale_and_seed():
    embeddings, labels = clustered(2.0)
    assert few_shot(3 * embeddings, labels) == few_shot(embeddings, labels)
    assert few_shot(embeddings, labels) != few_shot(embeddings, labels, seed=1)


def test_the_margin_is_that_of_a_mean_of_the_episodes():
    data = clustered(2.0)
    means = [few_shot(*data, episodes=number).accuracy for number in (1, 2, 3)]
    # The same seed begins with the same episodes.
    first, second, third = means[0], 2 * means[1] - means[0], 3 * means[2] - 2 * means[1]
    spread = np.std([first, second, third], ddof=1)
    assert few_shot(*data, episodes=3).margin == pytest.approx(1.96 * spread / 3**0.5, rel=1e-3)
    assert few_shot(*clustered(0.01), episodes=4).margin == 0.0
    assert np.isnan(few_shot(*data, episodes=1).margin)


def test_small_classes_give_the_images_they_have():
    embeddings, labels = clustered(0.01, images=3)
    assert few_shot(embeddings, labels, queries=15).accuracy == 1.0


def test_too_few_classes_are_told():
    with pytest.raises(DataError, match=r"5-way 5-shot needs 5 classes with at least 6 images"):
        few_shot(*clustered(1.0, images=5), shots=5)
