"""cleanlab's opinion on labels: a stand-in where cleanlab is missing, and cleanlab itself."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from siamkit.evaluation import second_opinion
from siamkit.evaluation.second_opinion import cleanlab_suspects, has_cleanlab


def images():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 10)
    centres = np.eye(8)[labels] + 0.1 * rng.standard_normal((80, 8))
    labels[[3, 30, 60]] = [5, 1, 0]
    return centres.astype(np.float32), labels


@pytest.fixture
def asked(monkeypatch):
    """What a stand-in for cleanlab was asked."""
    asked = {}

    def find_label_issues(labels, probabilities, **options):
        asked.update(labels=labels, probabilities=probabilities, **options)
        return labels != probabilities.argmax(1)

    package, module = ModuleType("cleanlab"), ModuleType("cleanlab.filter")
    module.find_label_issues = find_label_issues
    monkeypatch.setitem(sys.modules, "cleanlab", package)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", module)
    return asked


def test_cleanlab_gets_probabilities_that_leave_the_image_itself_out(asked):
    embeddings, labels = images()
    found = cleanlab_suspects(embeddings, labels, 8)
    assert np.flatnonzero(found).tolist() == [3, 30, 60]
    np.testing.assert_allclose(asked["probabilities"].sum(1), 1, rtol=1e-5)
    # The only image of a class has no image of it left, so its own class is improbable.
    cleanlab_suspects(np.append(embeddings, embeddings[:1], 0), np.append(labels, 8), 9)
    assert asked["probabilities"][-1].argmax() == 0 and asked["probabilities"][-1, 8] < 1e-6


def test_a_class_of_one_image_counts_as_opposite_to_it(asked):
    embeddings = np.array([[1, 0], [1, 0], [1, 0], [-1, 0], [-1, 0], [-1, 0.001]], np.float32)
    cleanlab_suspects(embeddings, np.array([0, 0, 2, 1, 1, 1]), 3)
    # To the only image of its class, the opposite class and its own are equally improbable.
    first, opposite, own = asked["probabilities"][2]
    assert own / opposite == pytest.approx(1, rel=1e-2) and first == pytest.approx(1)


def test_cleanlab_is_asked_if_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)  # imports of it fail
    assert not has_cleanlab()
    package = ModuleType("cleanlab")
    package.__spec__ = ModuleSpec("cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab", package)
    assert has_cleanlab()


def test_too_many_probabilities_are_not_asked_for(monkeypatch, asked):
    embeddings, labels = images()
    monkeypatch.setattr(second_opinion, "_MOST", len(labels) * 8)
    assert cleanlab_suspects(embeddings, labels, 8) is not None
    monkeypatch.setattr(second_opinion, "_MOST", len(labels) * 8 - 1)
    assert cleanlab_suspects(embeddings, labels, 8) is None


def test_cleanlab_finds_wrong_labels():
    pytest.importorskip("cleanlab")
    embeddings, labels = images()
    found = np.flatnonzero(cleanlab_suspects(embeddings, labels, 8))
    assert {3, 30, 60} <= set(found.tolist()) and len(found) < 10


@pytest.mark.filterwarnings("error")
def test_classes_with_few_images_are_no_warning():
    pytest.importorskip("cleanlab")
    assert not cleanlab_suspects(np.eye(3, dtype=np.float32), np.arange(3), 3).any()
