from pathlib import Path

import numpy as np
import pytest

from siamkit.data.images import ImageSet, Sample, Tuples, image_set_of
from siamkit.evaluation.retrieval import retrieval_of
from siamkit.evaluation.summary import summarize
from siamkit.inference.export.quality import lost, metrics_of


def noisy(labels, seed=0, width=16):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(labels) + 1, width), dtype=np.float32)
    return centres[labels] + rng.standard_normal((len(labels), width), dtype=np.float32)


def test_labelled_images_have_the_metrics_of_evaluate():
    images = image_set_of([f"class{n % 6}" for n in range(48)])
    embeddings = noisy(images.labels)
    found = metrics_of(embeddings, images, 0.3)
    wanted = summarize(embeddings, images, threshold=0.3)
    assert found["recall@1"] == wanted["retrieval"]["recall@1"]
    assert found["map@r"] == wanted["retrieval"]["map@r"]
    assert found["eer"] == wanted["verification"]["eer"]
    assert found["far"] == wanted["verification"]["at_threshold"]["far"]
    assert metrics_of(embeddings, images, None)["far"] is None
    assert retrieval_of(embeddings, images).recall[1] < 1, "the test needs mistakes"


def test_pairs_have_auc_instead_of_recall():
    samples = tuple(Sample(Path(f"{n}.png"), n % 4, f"{n}.png") for n in range(16))
    rows = tuple((n, (n + step) % 16) for n in range(16) for step in (4, 5))
    tuples = Tuples(rows, tuple(step == 4 for _ in range(16) for step in (4, 5)))
    images = ImageSet(samples, ("a", "b", "c", "d"), tuples)
    found = metrics_of(noisy(images.labels), images, 0.0)
    assert set(found) == {"auc", "eer", "far"} and 0.5 < found["auc"] <= 1


def test_images_that_allow_no_metric_give_none():
    images = image_set_of(["a", "b", "c"])
    assert set(metrics_of(noisy([0, 1, 2]), images, 0.5).values()) == {None}


@pytest.mark.parametrize(("after", "loss"), [
    ({"recall@1": 0.8, "map@r": 0.5, "eer": 0.1}, 0.0),
    ({"recall@1": 0.7, "map@r": 0.5, "eer": 0.1}, 0.1),
    ({"recall@1": 0.9, "map@r": 0.5, "eer": 0.3}, 0.2),
    ({"recall@1": 0.9, "map@r": 0.3, "eer": 0.0}, 0.2),
    ({"recall@1": None, "map@r": 0.5, "eer": 0.1}, 0.0),
    ({"recall@1": 0.9, "map@r": 0.6, "eer": 0.05}, -0.05),
])  # fmt: skip
def test_the_worst_metric_is_the_loss(after, loss):
    before = {"recall@1": 0.8, "map@r": 0.5, "eer": 0.1, "far": 0.2}
    assert lost(before, {**after, "far": 0.9}) == pytest.approx(loss)
