"""Known classes: whether a network is measured on classes that its run trained on.

New images of known classes are easier than images of new classes, so figures on them say little
about new classes. Classes are known by their names: two sets may use one name for two classes, so
the notice leaves it open.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from siamkit.data.images import ImageSet
from siamkit.errors import SiamkitError
from siamkit.runs.seen import listed_splits
from siamkit.words import plural

if TYPE_CHECKING:
    from siamkit.runs.open import OpenRun


def known_classes(run: OpenRun | None, images: ImageSet) -> list[str]:
    """Return a notice if classes of images have the names of classes that a run trained on.

    Pairs and triplets name no classes. A run whose data is out of reach gives no notice.

    Args:
        run: The run; None if it is unknown.
        images: The images.
    """
    if run is None or images.tuples is not None:
        return []
    with suppress(SiamkitError):
        train = listed_splits(run).train
        known = set() if train.tuples is not None else set(train.classes) & set(images.classes)
        if known:
            total = plural(len(images.classes), "class")
            one = len(known) == 1
            has = "has the name of a class" if one else "have the names of classes"
            same = "it is" if one else "they are"
            return [
                f"{len(known)} of the {total} {has} that the run trained on; if {same} the same, "
                "the figures describe new images of known classes, not new classes"
            ]
    return []
