"""Class folders: the images of a scanned folder, with the names of their folders as classes."""

from __future__ import annotations

from siamkit.data.images import ImageSet
from siamkit.portable.folders import Scan


def class_images(scan: Scan, within: str | None = None) -> ImageSet:
    """Return the images below a scanned folder, or below the folder ``within`` in it.

    A class is a folder that directly holds images. The class is named after the folder's path
    relative to the scanned folder or ``within``. Images outside class folders are left out; see
    :meth:`.Scan.loose`.
    """
    prefix = () if within is None else (within,)
    below = {
        "/".join(parts[len(prefix) :]): ["/".join((*parts, name)) for name in names]
        for parts, names in scan.folders.items()
        if len(parts) > len(prefix) and parts[: len(prefix)] == prefix
    }
    return ImageSet.of(scan.root, below)
