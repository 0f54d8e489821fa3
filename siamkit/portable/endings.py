"""File names: which names count as images, and which files hold images under other names."""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from .decode import FORMATS, quiet

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


def is_other_image_name(name: str) -> bool:
    """Return whether a file name has the ending of any image format.

    This is asked about names that :func:`is_image_name` rejects.
    """
    return _kind(PurePosixPath(name).suffix.lower()).startswith("image/")


def holds_image(path: Path) -> bool:
    """Return whether a file has the signature and the header of one of :data:`FORMATS`."""
    try:
        if not path.is_file():  # a FIFO would block the read for ever
            return False
        with path.open("rb") as file:
            start = file.read(_SIGNATURE)
            if len(start) < _SIGNATURE or not any(_accepts(name, start) for name in FORMATS):
                return False
            file.seek(0)
            # A text that begins with BM or Py has the signature of a BMP or PPM.
            with quiet(), Image.open(file, formats=FORMATS):
                return True
    except Image.DecompressionBombError:
        return True
    except MemoryError:
        raise
    except Exception:  # damaged headers can raise almost any exception
        return False


@cache
def _kind(ending: str) -> str:
    """Return the MIME type or encoding of a file name ending; empty if the ending is unknown."""
    # A new instance has only Python's own table, so no file of the system changes the result.
    kind, encoding = mimetypes.MimeTypes().guess_type(f"x{ending}", strict=False)
    by_pillow = Image.MIME.get(Image.registered_extensions().get(ending, ""))
    return encoding or kind or by_pillow or ""


def _accepts(name: str, start: bytes) -> bool:
    Image.init()
    accepts = Image.OPEN[name][1]
    return accepts is not None and bool(accepts(start))
