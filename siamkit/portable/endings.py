"""File names: which names count as images, and which files hold images under other names."""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from .decode import FORMATS

_SIGNATURE = 16  # the first bytes of a file, by which Pillow tells formats apart


@cache
def image_endings() -> frozenset[str]:
    """Return the file name endings, in lower case, that count as images.

    These are the endings that Pillow knows for :data:`FORMATS`, such as ``.jfif``.
    """
    names = {e for e, name in Image.registered_extensions().items() if name in FORMATS}
    # Stereo cameras name JPEGs .mpo. A .pfm file always holds floats, which have no defined range.
    return frozenset(names | {".mpo"}) - {".pfm"}


def is_image_name(name: str) -> bool:
    """Return whether a file name has the ending of an image format that siamkit reads."""
    return PurePosixPath(name).suffix.lower() in image_endings()


def is_other_image_name(name: str) -> bool | None:
    """Return whether a file name has the ending of any image format; None for unknown endings.

    This is asked about names that :func:`is_image_name` rejects.
    """
    kind = _kind(PurePosixPath(name).suffix.lower())
    return None if kind is None else kind.startswith("image/")


def holds_image(path: Path) -> bool:
    """Return whether a file has the signature of one of :data:`FORMATS`."""
    try:
        if not path.is_file():  # a FIFO would block the read for ever
            return False
        with path.open("rb") as file:
            start = file.read(_SIGNATURE)
    except OSError:
        return False
    return len(start) == _SIGNATURE and any(_accepts(name, start) for name in FORMATS)


@cache
def _kind(ending: str) -> str | None:
    """Return the MIME type or encoding of a file name ending; None if the ending is unknown."""
    # A new instance has only Python's own table, so no file of the system changes the result.
    kind, encoding = mimetypes.MimeTypes().guess_type(f"x{ending}", strict=False)
    by_pillow = Image.MIME.get(Image.registered_extensions().get(ending, ""))
    return encoding or kind or by_pillow


def _accepts(name: str, start: bytes) -> bool:
    Image.init()
    accepts = Image.OPEN[name][1]
    return accepts is not None and bool(accepts(start))
