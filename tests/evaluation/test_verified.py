"""The verification of images: the metrics of their pairs, and what cannot be known of them."""

import numpy as np

from siamkit.data.images import Tuples, image_set_of
from siamkit.evaluation.verified import verify_images


def test_pairs_of_one_identity_have_metrics_without_intervals():
    images = image_set_of(["a"] * 3)
    listed = type(images)(images.samples, images.classes, Tuples(((0, 1), (1, 2)), (True, False)))
    found = verify_images(np.array([[1, 0], [1, 0.1], [0, 1]]), listed)
    assert found.metrics.auc == 1 and found.intervals == {}
    assert found.notices[-1].startswith("no intervals for the verification metrics: there must be")


def test_only_rates_that_can_be_measured_have_intervals():
    rng = np.random.default_rng(0)
    labels = [str(i // 4) for i in range(60)]
    found = verify_images(rng.standard_normal((60, 4)), image_set_of(labels))
    assert set(found.intervals) == {"auc", "eer", "tar@far=0.1", "tar@far=0.01"}
    assert found.notices == ("no TAR at FAR 0.001: 1680 different pairs are too few",)
