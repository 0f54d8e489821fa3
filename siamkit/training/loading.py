"""Loaded sets: the image sets of a run with their views and loaders, and the run's engine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from siamkit.data.images import ImageSet
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.rowkeys import FileDigest, RowKeys
from siamkit.data.splits import Splits
from siamkit.data.views import EvalView, TrainView
from siamkit.engine.cache.layout import default_root
from siamkit.engine.deciding import Decider
from siamkit.engine.settings import EngineSettings, Reports
from siamkit.engine.sources import TRAIN
from siamkit.training.build import Setup
from siamkit.training.judging import sample_of
from siamkit.training.seeding import derive
from siamkit.training.validation import probe

_GB = 1_000_000_000
VAL, PROBE, TEST = "val", "probe", "test"

SOLVE = "solve"
"""The training images without augmentation, from which a head in closed form is computed."""

SOLVED = 10_000
"""The most training images that a head is computed from in closed form. Time and memory grow with
them, and so many determine the covariance of features of any usual width."""

SECOND = "second"
"""The training images in a second view, for losses that compare two views of each image."""


class LoadedSet:
    """An image set with its views and their loader. It implements the engine's ``Inputs``.

    Args:
        images: The image set.
        dataset: The views of the images.
        loader: Loads the views in batches.
        digests: Digests of files by path, shared by the sets of a run. Missing ones are added.
        check: Called after each file that is hashed; may raise to stop.
        trains: Whether the run trains on these images.
    """

    def __init__(
        self,
        images: ImageSet,
        dataset: ViewDataset,
        loader: Loader,
        digests: dict[Path, FileDigest],
        check: Callable[[], None],
        trains: bool = False,
    ) -> None:
        self.images, self.dataset, self.source = images, dataset, loader
        self.trains = trains
        self._digests, self._check = digests, check

    @property
    def labels(self) -> Sequence[int]:
        """The label of each image."""
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def example(self, index: int, view: int) -> Tensor:
        """Return one view ``[C, H, W]`` of one image."""
        return self.dataset[index, view]

    def keys(self, view: int) -> Sequence[bytes]:
        """Return one view's key for every image, in order. A key depends on the file's content."""
        return self._row_keys.of(view)

    def require_unchanged(self, indices: Sequence[int]) -> None:
        """Raise DataError if an image file changed after it was hashed."""
        self._row_keys.require_unchanged(indices)

    @cached_property
    def _row_keys(self) -> RowKeys:
        # Hashing reads every file, and only the cache needs it.
        return RowKeys(self.dataset, self._digests, self._check)


def load_sets(
    setup: Setup, splits: Splits, check: Callable[[], None] = lambda: None
) -> dict[str, LoadedSet]:
    """Return the image sets of a run by name. Training sets get training views.

    Args:
        setup: The parts of the run.
        splits: The data of the run.
        check: Called regularly during long work; may raise to stop.
    """
    config = setup.config
    preprocessing = setup.net.preprocessing
    images = {
        TRAIN: splits.train,
        VAL: splits.val,
        PROBE: probe(splits.train, splits.val, config.train.seed),
    }
    if splits.test:
        images[TEST] = splits.test
    if setup.loss.second_view and config.train.epochs:
        images[SECOND] = splits.train
    if setup.net.head.closed_form is not None and splits.train.tuples is None:
        images[SOLVE] = sample_of(splits.train, SOLVED, config.train.seed)
    result: dict[str, LoadedSet] = {}
    digests: dict[Path, FileDigest] = {}
    for name, part in images.items():
        trains = name in (TRAIN, SECOND)
        view = TrainView(preprocessing, config.data.augment) if trains else EvalView(preprocessing)
        seed = config.train.seed if name != SECOND else derive(config.train.seed, SECOND)
        dataset = ViewDataset(part, view, seed, max_pixels=config.data.max_pixels)
        workers = config.data.workers
        if workers is None:
            workers = default_workers(len(part), setup.device.type)
        loader = Loader(dataset, workers, setup.device.type == "cuda", check)
        result[name] = LoadedSet(part, dataset, loader, digests, check, trains)
    return result


def decider_of(
    setup: Setup, sets: Mapping[str, LoadedSet], visits: int, reports: Reports
) -> Decider:
    """Return what decides how the phases of a run are computed.

    Args:
        setup: The parts of the run.
        sets: The image sets of the run. In a run without epochs, the engine gets the training
            images without augmentation, or none if no head is computed from them.
        visits: Training images per epoch; an image that comes twice counts twice.
        reports: Callbacks during long work.
    """
    config = setup.config
    preprocessing = setup.net.preprocessing
    settings = EngineSettings(
        device=setup.device,
        precision=config.train.precision,
        cut=config.engine.cut,
        cache=config.engine.cache,
        root=config.engine.cache_dir or default_root(),
        budget=int(config.engine.cache_gb * _GB),
        dtype=getattr(torch, config.engine.dtype),
        # The int8 part is a part of the network, and what follows it is short.
        kernel="eager" if config.engine.prefix == "int8" else config.engine.prefix,
        views=config.data.views if config.data.augment.is_random and config.train.epochs else 1,
    )
    identity = {
        "backbone": config.backbone.name,
        "image_size": list(preprocessing.size),
        "timm": importlib.metadata.version("timm"),
    }
    outside = (TEST,) if setup.net.head.computed else (TEST, SOLVE)
    inputs = {name: part for name, part in sets.items() if name not in outside}
    late = {name: part for name, part in sets.items() if name in outside}
    if not config.train.epochs:
        inputs = {TRAIN: sets.get(SOLVE, sets[VAL]), VAL: sets[VAL]}
        if settings.cache == "auto":
            # One run never reads its rows twice, but the next one on these images will.
            settings = replace(settings, cache="always")
    return Decider(setup.controller, inputs, late, visits, settings, reports, identity)
