"""Showing: the views of a few training images that a run would train and evaluate on."""

from __future__ import annotations

from collections.abc import Mapping

from siamkit.config import RunConfig
from siamkit.data.load import load_data
from siamkit.data.loader import ViewDataset
from siamkit.data.originals import original
from siamkit.data.showing import Showing, ShownImage, picture
from siamkit.data.telling import Traits, telling
from siamkit.data.views import EvalView
from siamkit.engine.sources import TRAIN
from siamkit.portable.decode import Decoding
from siamkit.portable.judging import size_of
from siamkit.registry import Registry
from siamkit.training.build import build, prepare_images
from siamkit.training.loading import load_sets
from siamkit.training.requirements import for_data


def show(
    config: RunConfig, registries: Mapping[str, Registry], *, images: int, draws: int
) -> Showing:
    """Return views of a few training images, made by the code that makes a run's batches.

    No weights are loaded, because no view depends on them.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        images: The largest number of images.
        draws: The largest number of training views per image. A run may have fewer: as many as
            ``data.views``, or one without augmentation.

    Raises:
        SiamkitError: The data or the config cannot be used for a run.
    """
    splits = load_data(config.data, config.train.seed)
    setup = build(
        for_data(config, splits, registries), registries, len(splits.train.classes), weights="none"
    )
    notices = (*splits.notices, *prepare_images(setup, splits))
    preprocessing, config = setup.net.preprocessing, setup.config
    most = config.data.max_pixels
    train = load_sets(setup, splits)[TRAIN]
    plain = ViewDataset(splits.train, EvalView(preprocessing), config.train.seed, max_pixels=most)
    how = Decoding.of(preprocessing, most)
    views = config.data.views if config.data.augment.is_random else 1
    count = draws if views is None else min(draws, views)
    samples = splits.train.samples
    traits = [
        Traits(size_of(found, sample.box), found.mode, found.deep, sample.label)
        for sample in samples
        for found in [splits.facts[sample.path]]
    ]
    shown = [
        ShownImage(
            samples[choice.index],
            splits.train.classes[samples[choice.index].label],
            choice,
            original(samples[choice.index], how),
            picture(plain[choice.index, 0], preprocessing),
            [picture(train.example(choice.index, view), preprocessing) for view in range(count)],
        )
        for choice in telling(traits, max(preprocessing.size), images)
    ]
    sizes = {name: len(part) for name, part in splits.sets.items()}
    return Showing(config, preprocessing, shown, sizes, splits.how, notices)
