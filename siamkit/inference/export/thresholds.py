"""Thresholds of int8 networks: fitted again if the scores moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.errors import DataError
from siamkit.evaluation.calibrating import calibrate
from siamkit.portable.calibration import Calibration

MOVED = 1e-3
"""The difference of two thresholds up to which a threshold counts as unmoved."""

_SOURCE = ("data", "part", "digest", "checkpoint", "network", "epoch", "siamkit")


@dataclass(frozen=True)
class Threshold:
    """The calibration of an exported network.

    Attributes:
        calibration: The calibration; None if the run has none.
        refitted: Whether it was fitted again for the exported network.
        notice: What the user should know; None if there is nothing.
    """

    calibration: Calibration | None
    refitted: bool = False
    notice: str | None = None


def for_int8(
    stored: Calibration | None, embeddings: NDArray[np.float32], images: ImageSet
) -> Threshold:
    """Return the calibration of an int8 network: the stored one, or a new one if it moved.

    The new one has the same target and is fitted on the same images. If the stored one was fitted
    on other images than the run's validation images, it is kept.

    Args:
        stored: The run's calibration.
        embeddings: ``[N, E]``, the int8 network's embeddings of the validation images.
        images: The validation images, in the same order.
    """
    if stored is None:
        return Threshold(None)
    made = stored.provenance
    if made.digest != digest(images):
        return Threshold(
            stored,
            notice="the threshold was fitted on other images than the run's validation images, so "
            "it was not fitted again for int8: check the false accepts in the table",
        )
    notices = (*made.notices, "fitted again for the int8 network of an export")
    source = {name: getattr(made, name) for name in _SOURCE} | {"notices": notices}
    try:
        fitted = calibrate(
            embeddings, images, target=stored.target, far=stored.far_asked, source=source
        )
    except DataError as error:
        return Threshold(stored, notice=f"the threshold was not fitted again for int8: {error}")
    if abs(fitted.threshold - stored.threshold) <= MOVED:
        return Threshold(stored)
    return Threshold(
        fitted,
        refitted=True,
        notice=f"the threshold moved in int8: {stored.threshold:.4f} for the run's network, "
        f"{fitted.threshold:.4f} for this one, which is the threshold of the export",
    )
