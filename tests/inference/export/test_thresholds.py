import dataclasses

import numpy as np
import pytest

from siamkit.data.digest import digest
from siamkit.data.images import image_set_of
from siamkit.evaluation.calibrating import calibrate
from siamkit.inference.export import thresholds
from siamkit.inference.export.thresholds import for_int8


@pytest.fixture
def images(monkeypatch):
    monkeypatch.setattr(thresholds, "digest", lambda _: "digest of these")
    return image_set_of([f"class{n % 5}" for n in range(40)])


def embeddings(images, shift=0.0):
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((5, 8), dtype=np.float32)
    noise = rng.standard_normal((len(images), 8), dtype=np.float32)
    # A common direction raises every similarity, and with them the threshold.
    return centres[images.labels] + 0.7 * noise + shift


def stored(images, part="digest of these", **how):
    source = {
        "data": "photos", "part": "val", "digest": part, "checkpoint": "epoch-1",
        "network": "n", "epoch": 1, "siamkit": "0", "notices": ("seen",),
    }  # fmt: skip
    return calibrate(embeddings(images), images, source=source, **how)


def test_a_threshold_that_did_not_move_stays(images):
    kept = for_int8(stored(images), embeddings(images), images)
    assert kept.calibration == stored(images) and not kept.refitted and kept.notice is None


@pytest.mark.parametrize("how", [{}, {"target": "accuracy"}, {"target": "far", "far": 0.05}])
def test_a_threshold_that_moved_is_fitted_again_for_the_same_target(images, how):
    before = stored(images, **how)
    moved = for_int8(before, embeddings(images, 0.5), images)
    assert moved.refitted and moved.calibration.threshold > before.threshold + 0.01
    assert moved.calibration.target == before.target
    assert moved.calibration.far_asked == before.far_asked
    made = moved.calibration.provenance
    assert made.notices == ("seen", "fitted again for the int8 network of an export")
    assert dataclasses.replace(made, notices=("seen",)) == before.provenance
    assert f"{before.threshold:.4f} for the run's network" in moved.notice


def test_a_threshold_from_other_images_is_kept_and_that_is_said(images):
    before = stored(images, part="others")
    kept = for_int8(before, embeddings(images, 0.5), images)
    assert kept.calibration == before and "fitted on other images" in kept.notice


def test_a_run_without_a_threshold_gets_none(images):
    assert for_int8(None, embeddings(images), images).calibration is None


def test_scores_that_allow_no_threshold_keep_the_stored_one(images):
    before = stored(images)
    kept = for_int8(before, np.ones((len(images), 8), np.float32), images)
    assert kept.calibration == before and "was not fitted again" in kept.notice


def test_the_digest_is_that_of_the_images():
    assert thresholds.digest is digest
