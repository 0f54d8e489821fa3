"""Class folders: the images of a scanned folder, with the names of their folders as classes."""

from __future__ import annotations

from siamkit.data.images import ImageSet
from siamkit.portable.folders import Scan, briefly
from siamkit.words import plural


def class_images(scan: Scan, within: str | None = None) -> ImageSet:
    """Return the images below a scanned folder, or below the folder ``within`` in it.

    A class is a folder that directly holds images. The class is named after the folder's path
    relative to the scanned folder or ``within``. Images outside class folders are left out; see
    :meth:`.Scan.loose`.
    """
    depth = 0 if within is None else 1
    below = {
        "/".join(parts[depth:]): ["/".join((*parts, name)) for name in scan.folders[parts]]
        for parts in _class_folders(scan, within)
    }
    return ImageSet.of(scan.root, below)


def structure_notices(scan: Scan, within: str | None = None) -> list[str]:
    """Return notices about class folders whose place leaves open what the class is.

    The images of a class may be in folders within its folder, or its folder may be there twice,
    below folders of splits, cameras or years. Each folder counts as a class of its own, which is
    wrong then.

    Args:
        scan: The scanned folder.
        within: The folder in it that holds the class folders; None for the scanned folder itself.
    """
    folders = _class_folders(scan, within)
    every = set(folders)
    names = {parts: "/".join(parts if within is None else parts[1:]) for parts in folders}
    inner = [
        (parts, parts[:depth])
        for parts in folders
        for depth in range(len(parts) - 1, 0 if within is None else 1, -1)
        if parts[:depth] in every
    ]
    notices = []
    if inside := dict(reversed(inner)):
        verb = "is" if len(inside) == 1 else "are"
        parts, outer = min(inside.items())
        notices.append(
            f"{plural(len(inside), 'class folder')} {verb} inside another class folder, but "
            f"{'counts as a class of its own' if verb == 'is' else 'count as classes of their own'}"
            f": {names[parts]} in {names[outer]}"
        )
    places: dict[str, list[str]] = {}
    for parts in folders:
        places.setdefault(parts[-1], []).append(names[parts])
    if several := [some for some in places.values() if len(some) > 1]:
        which = briefly([" and ".join(some[:2]) for some in several])
        notices.append(
            f"{plural(sum(map(len, several)), 'class folder')} in different folders have the same "
            "name, but each counts as a class of its own; if they are splits, name the folders "
            f"around them train, val and test: {which}"
        )
    return notices


def _class_folders(scan: Scan, within: str | None) -> list[tuple[str, ...]]:
    """Return the folders that hold images, below the scanned folder or below ``within`` in it."""
    prefix = () if within is None else (within,)
    return [
        parts
        for parts in scan.folders
        if len(parts) > len(prefix) and parts[: len(prefix)] == prefix
    ]
