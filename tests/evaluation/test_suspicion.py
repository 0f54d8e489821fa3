"""All that an embedding says against a data set."""

import numpy as np

from siamkit.evaluation.second_opinion import has_cleanlab
from siamkit.evaluation.suspicion import nearest_of_class, suspicion


def images(classes=12, each=8, seed=0, width=16, spread=0.5):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = rng.standard_normal((classes, width))
    noise = spread * rng.standard_normal((len(labels), width))
    return (centres[labels] + noise).astype(np.float32), labels


def test_a_class_in_two_names_is_not_also_called_divided():
    embeddings, labels = images()
    labels[labels == 3] = np.tile([3, 12], 4)
    found = suspicion(embeddings, labels, 13, limit=2.0, labelled=True)
    assert [(pair.first, pair.second) for pair in found.alike] == [(3, 12)]
    assert found.divided == [] == found.twins
    assert (found.agrees is not None) == has_cleanlab()


def test_without_labels_only_near_duplicates_are_sought():
    embeddings, labels = images()
    embeddings[5] = embeddings[50]
    for classes, labelled in ((12, False), (1, True)):
        found = suspicion(embeddings, labels % classes, classes, limit=0.999, labelled=labelled)
        assert found.noise is None and found.agrees is None and not found.alike
        assert [(pair.first, pair.second) for pair in found.twins] == [(5, 50)]


def test_the_nearest_images_of_a_class_leave_out_the_image_itself():
    embeddings, labels = images()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for label in (0, 4):
        found = nearest_of_class(embeddings, labels, 2, label, 3)
        scores = {i: float(unit[2] @ unit[i]) for i in np.flatnonzero(labels == label) if i != 2}
        best = sorted(scores, key=lambda i: -scores[i])[:3]
        assert [image for image, _ in found] == best
        np.testing.assert_allclose([s for _, s in found], [scores[i] for i in best], atol=1e-5)
