"""The image sets of a run, ready to be loaded."""

from __future__ import annotations

from dataclasses import dataclass

from siamkit.data.images import ImageSet
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.splits import Splits
from siamkit.data.views import EvalView, TrainView
from siamkit.training.build import Setup
from siamkit.training.validation import probe

TRAIN, VAL, PROBE, TEST = "train", "val", "probe", "test"


@dataclass(frozen=True)
class LoadedSet:
    """An image set with its views and the processes that load them."""

    images: ImageSet
    dataset: ViewDataset
    loader: Loader


def load_sets(setup: Setup, splits: Splits) -> dict[str, LoadedSet]:
    """Return the sets of a run by name: ``train`` in training views, the others as they are."""
    config = setup.config
    preprocessing = setup.net.backbone.preprocessing
    images = {
        TRAIN: splits.train,
        VAL: splits.val,
        PROBE: probe(splits.train, splits.val, config.train.seed),
    }
    if splits.test:
        images[TEST] = splits.test
    result: dict[str, LoadedSet] = {}
    for name, part in images.items():
        view = (
            TrainView(preprocessing, config.data.augment)
            if name == TRAIN
            else EvalView(preprocessing)
        )
        dataset = ViewDataset(part, view, preprocessing.channels, config.train.seed)
        workers = config.data.workers
        if workers is None:
            workers = default_workers(len(part), setup.device.type)
        result[name] = LoadedSet(
            part, dataset, Loader(dataset, workers, pin_memory=setup.device.type == "cuda")
        )
    return result
