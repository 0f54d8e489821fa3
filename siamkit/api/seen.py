"""Images that a run has used before: to train, to choose its best epoch, to fit its threshold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.data.opening import load_data
from siamkit.errors import CheckpointError, SiamkitError
from siamkit.evaluation.calibration import Calibration
from siamkit.inference.embedder import Embedder
from siamkit.runs.open import OpenRun, Which
from siamkit.spelling import argument
from siamkit.words import plural


def chosen_by(
    images: ImageSet, run: OpenRun | None, which: Which, embedder: Embedder
) -> tuple[str, ...]:
    """Return what was chosen by means of the images: the ``epoch``, the ``threshold``, or both.

    Args:
        images: The images.
        run: The run that made the network; None if the run is unknown.
        which: The network that is evaluated.
        embedder: The embedder with this network, and with its threshold if there is one.
    """
    own, chose = digest(images), []
    if run is not None and which == "best":
        known = run.checkpoint(which).state["identity"]
        if known.get("data val") == own:
            chose.append("epoch")
    calibration = _calibration(embedder)
    if calibration is not None and calibration.provenance.digest == own:
        chose.append("threshold")
    return tuple(chose)


def _calibration(embedder: Embedder) -> Calibration | None:
    try:
        return embedder.calibration
    except CheckpointError:
        return None


def trained_on(images: ImageSet, run: OpenRun) -> int:
    """Return how many of the image files the run trained on; 0 if its data cannot be loaded."""
    config = run.config.data
    places = [Path(os.path.abspath(sample.path)) for sample in images.samples]  # noqa: PTH100
    try:
        # A training image that could not be read is not among those to evaluate on either.
        splits = load_data(
            config.model_copy(update={"on_unreadable": "error"}), run.config.train.seed
        )
    except SiamkitError:
        return 0
    trained = {os.path.abspath(sample.path) for sample in splits.train.samples}  # noqa: PTH100
    return sum(str(place) in trained for place in places)


def notices_on(chose: Sequence[str], trained: int, count: int) -> list[str]:
    """Return what a user must know about figures on images that the run has used before."""
    other = f"add a test split, or pass other images as {argument('data', flag='DATA')}"
    notices = []
    if chose:
        names = {"epoch": "the best epoch", "threshold": "the threshold"}
        what = " and ".join(names[name] for name in chose)
        notices.append(
            f"these images chose {what}, so the figures are optimistic for other images: {other}"
        )
    if trained:
        notices.append(
            f"the run trained on {trained} of the {plural(count, 'image')}, so the figures do not "
            f"show how the network does on other images: {other}"
        )
    return notices
