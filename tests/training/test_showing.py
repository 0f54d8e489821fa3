"""What 'data show' shows is what a run trains and evaluates on, pixel by pixel."""

import numpy as np
import pytest
import torch

from siamkit.api import load_config, registries
from siamkit.data.load import load_data
from siamkit.data.showing import picture
from siamkit.data.views import EvalView
from siamkit.engine.sources import TRAIN
from siamkit.interfaces import Preprocessing
from siamkit.portable.decode import Decoding, decode
from siamkit.training import showing
from siamkit.training.build import build, prepare_images
from siamkit.training.loading import load_sets


def shown(values_of, tmp_path, images=4, draws=3, **sections):
    config = load_config(values_of(tmp_path / "run", **sections))
    return config, showing.show(config, registries(), images=images, draws=draws)


@pytest.mark.parametrize("fit", ["auto", "pad"])
def test_the_views_are_those_that_the_batches_of_a_run_hold(values_of, odd_folder, tmp_path, fit):
    data = {"path": str(odd_folder), "fit": fit, "augment": "documents"}
    config, found = shown(values_of, tmp_path, data=data)
    splits = load_data(config.data, config.train.seed)
    setup = build(config, registries(), len(splits.train.classes), weights="none")
    prepare_images(setup, splits)
    loaded = load_sets(setup, splits)[TRAIN]
    preprocessing = setup.net.preprocessing
    how = Decoding.of(preprocessing)
    keys = [sample.key for sample in splits.train.samples]
    for image in found.images:
        index = keys.index(image.sample.key)
        assert image.label == splits.train.classes[splits.train.samples[index].label]
        for view, drawn in enumerate(image.training):
            (batch,) = loaded.source.batches([[index]], view)
            assert drawn.tobytes() == picture(batch.inputs[0], preprocessing).tobytes()
        seen = EvalView(preprocessing).resize(decode(image.sample.path, how))
        assert image.evaluation.tobytes() == seen.convert("RGB").tobytes()
    assert len({image.tobytes() for image in found.images[0].training}) == 3
    assert found.config.data.range == 12 and found.config.data.fit != "auto"


def test_there_are_no_more_views_than_the_run_has(values_of, tmp_path):
    _, found = shown(values_of, tmp_path, draws=5, data={"views": 2})
    assert [len(image.training) for image in found.images] == [2] * 4
    _, found = shown(values_of, tmp_path, draws=5, data={"augment": "none"})
    for image in found.images:
        (only,) = image.training
        assert only.tobytes() == image.evaluation.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_the_image_before_its_values_were_normalised(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, channels), dtype=np.uint8)
    pre = Preprocessing(mean=(0.485, 0.1, 0.9, 0.5)[:channels], std=(0.229, 0.3, 0.2, 1)[:channels])
    mean, std = (torch.tensor(v)[:, None, None] for v in (pre.mean, pre.std))
    view = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
    found = np.asarray(picture(view, pre))
    if channels == 4:  # over white
        alpha = pixels[..., 3:] / 255
        expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
        assert abs(found - expected).max() <= 1
    else:
        assert np.array_equal(found, np.broadcast_to(pixels, (6, 7, 3)))
