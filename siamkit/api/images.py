"""The images that a function evaluates a network on, or fits its threshold on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.checks import require_unused
from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet, Sample, image_set_of
from siamkit.data.inputs import is_file, samples_of
from siamkit.data.load import load_data, unseen_images
from siamkit.data.memory import Item, content_of, items_of
from siamkit.data.overlap import Image
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.portable.judging import Prepares, judge_pictures, judge_samples
from siamkit.portable.looking import Facts, look
from siamkit.spelling import argument

if TYPE_CHECKING:
    from siamkit.runs.open import OpenRun


def root_of(root: Any, data: Any) -> Path | None:
    """Return the folder that a table's paths are relative to. Only a table may have one.

    Args:
        root: The user's argument.
        data: The data that the folder belongs to; None for a run's own.

    Raises:
        ConfigError: The folder is no path, or ``data`` is no path.
    """
    if not isinstance(data, str | os.PathLike):
        beside = "the run's own data" if data is None else "images that are given in Python"
        require_unused({argument("root"): root}, beside)
    return None if root is None else path_of(root, "root", "a folder")


@dataclass(frozen=True)
class Given:
    """Images to evaluate on.

    Attributes:
        images: The images.
        inputs: The images as an embedder takes them, in the same order.
        about: The origin of the images, for ``--json``: ``path`` and ``part``.
        notices: Notices for the user.
    """

    images: ImageSet
    inputs: Sequence[Any]
    about: Mapping[str, str]
    notices: Sequence[str]

    @property
    def entries(self) -> list[Image]:
        """What tells one image from another: its file, or its content if it is in memory."""
        return [_entry(image, number) for number, image in enumerate(self.inputs)]


def images_of(run: OpenRun | None, embedder: Prepares, data: Any, folder: Path | None) -> Given:
    """Return the images to evaluate a network on.

    Args:
        run: The run that made the network; None if it is unknown.
        embedder: The network.
        data: The data, as for :func:`.evaluate`; None for the run's own.
        folder: The folder that the paths of a table are relative to; None: the table's folder.

    Raises:
        ConfigError: There is no data.
        DataError: The data cannot be read.
    """
    if data is None:
        if run is None:
            raise ConfigError(
                "is missing: an embedder or an exported model has no data of its own", where="data"
            )
        splits = load_data(run.config.data, run.config.train.seed)
        images = splits.test or splits.val
        run.require_images("test" if splits.test else "val", images)
        notices = judged(images.samples, splits.facts, embedder)
        part = "the run's test images" if splits.test else "the run's validation images"
        about = {"path": run.config.data.path, "part": part}
        return Given(images, images.samples, about, notices)
    if isinstance(data, str | os.PathLike):
        path, config = str(path_of(data, "data")), None if run is None else run.config.data
        found = unseen_images(path, folder, config, embedder.decoding)
        notices = [*found.notices, *judged(found.images.samples, found.facts, embedder)]
        about = {"path": path, "part": found.part}
        return Given(found.images, found.images.samples, about, notices)
    notices = []
    items = items_of(data, notices, training=False)
    split = next(s for s in ("test", "val", "train", None) if any(i.split == s for i in items))
    chosen = [item for item in items if item.split == split]
    images = image_set_of([item.label for item in chosen])
    notices += alike_notices("class", images.classes)
    query, gallery = _flags(i.query for i in chosen), _flags(i.gallery for i in chosen)
    images = replace(images, query=query, gallery=gallery)
    inputs = [_input(item) for item in chosen]
    files = samples_of([image for image in inputs if is_file(image)])
    looks = look([file.path for file in files], embedder.decoding)
    notices += judged(files, {found.path: found for found in looks}, embedder)
    notices += judge_pictures([image for image in inputs if not is_file(image)], embedder)
    return Given(images, inputs, {"path": "images", "part": split or "all"}, notices)


def _flags(flags: Iterable[bool | None]) -> tuple[bool, ...] | None:
    """Return whether each image has a role (query or gallery); None if the data sets no roles."""
    known = tuple(flags)
    return None if all(flag is None for flag in known) else tuple(map(bool, known))


def _input(item: Item) -> Any:
    """Return an image as the embedder takes it."""
    if item.box is None:
        return Path(item.image) if item.in_file else item.image
    return Sample(Path(item.image), 0, str(item.image), item.box)


def _entry(image: Any, number: int) -> Image:
    if isinstance(image, Sample):
        return image
    return Sample(image, 0, str(image)) if isinstance(image, Path) else content_of(image, number)


def judged(samples: Iterable[Sample], facts: Mapping[Path, Facts], embedder: Prepares) -> list[str]:
    """Return notices about what an embedder's preparation loses of images."""
    files = [(sample.path, sample.box) for sample in samples]
    return judge_samples(files, facts, embedder.preprocessing, embedder.decoding)
