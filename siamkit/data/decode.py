"""The decoder: turns image files into images of one defined form.

It applies the EXIF orientation, puts transparent images on white, scales deep grey to 8 bits by the
given range of values, converts CMYK to RGB, and takes the first frame of an animation. A file that
cannot be read, or has values outside the range, is an error that names the file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from siamkit.data.images import Box
from siamkit.errors import DataError, SiamkitError
from siamkit.spelling import setting

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are decoded. The content decides, not the file's name."""

MAX_PIXELS = 178_956_970
"""Width x height above which a file counts as a decompression bomb (Pillow's own limit)."""

ValueRange = int | tuple[float, float] | None
"""See :class:`siamkit.Preprocessing`."""

_ANY = (0.0, 1.0)
"""A range with which images of every kind are read, where only their header matters."""

_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_HINT = "repair or remove the file"
_HEADER_THREADS = 8


def decode(
    path: Path,
    channels: int,
    box: Box | None = None,
    *,
    value_range: ValueRange = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return the image in ``path``, upright and with 8 bits per channel.

    Args:
        path: The file.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. With 1 or 3, transparent
            parts become white.
        box: The part of the upright image to return, widened to whole pixels; None for all of it.
        value_range: The values of deep grey images that become black and white; see
            :class:`siamkit.Preprocessing`.
        max_pixels: Refuse images of more pixels, before they are decoded.

    Raises:
        DataError: The file is missing, empty, truncated, too large, or not in :data:`FORMATS`.
    """
    with _quiet(), _opened(path, max_pixels, value_range) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _to_mode(image, _MODES[channels], str(path), value_range)
        if box is None:
            return image
        left, top, right, bottom = box
        return image.crop((int(left), int(top), math.ceil(right), math.ceil(bottom)))


def prepare(
    image: Image.Image,
    channels: int,
    *,
    where: str = "image",
    value_range: ValueRange = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return an opened image in the form of :func:`decode`. The given image is not changed.

    Args:
        image: The image, of any mode; of an animation, its current frame.
        channels: As for :func:`decode`.
        where: Its name in messages.
        value_range: As for :func:`decode`.
        max_pixels: As for :func:`decode`.

    Raises:
        DataError: The image is empty, too large, truncated, or of a mode without a defined range.
    """
    with _quiet(), _as_data_error(where, max_pixels):
        if not image.width * image.height:
            raise DataError("the image is empty", where=where, got=f"{image.width}x{image.height}")
        _check(image, where, max_pixels, value_range)
        image.load()
        return _to_mode(ImageOps.exif_transpose(image), _MODES[channels], where, value_range)


def unreadable(
    paths: Sequence[Path],
    *,
    boxes: Mapping[Path, Box] | None = None,
    full: bool = False,
    value_range: ValueRange = None,
) -> list[tuple[Path, str]]:
    """Return each file that is not a usable image, with its problem.

    Reading only headers is cheap (about 0.1 ms per file) and finds the most common problems: empty
    files, other formats under an image's name, and decompression bombs.

    Args:
        paths: The files.
        boxes: For some files, a box that must lie within the upright image.
        full: Whether to decode the pixels too, which also finds truncated files.
        value_range: As for :func:`decode`.
    """
    boxes = boxes or {}

    def check(path: Path) -> str | None:
        try:
            with _opened(path, MAX_PIXELS, value_range) as image:
                width, height = image.size
                # For a TIFF, Pillow's size is already that of the upright image.
                if path in boxes and image.format != "TIFF" and _is_turned(image):
                    width, height = height, width
                if full:
                    image.load()
                    if _is_deep_grey(image):
                        _eight_bit(image, str(path), value_range)
        except DataError as error:
            return error.what
        _, _, right, bottom = boxes.get(path, (0, 0, 0, 0))
        if right > width or bottom > height:
            return f"its box ends at {right:g},{bottom:g}, but the image ends at {width},{height}"
        return None

    # Threads hide the latency of network file systems. The filter is set once for all threads,
    # because warnings.catch_warnings isn't thread-safe.
    with _quiet(), ThreadPoolExecutor(_HEADER_THREADS) as pool:
        checked = zip(paths, pool.map(check, paths), strict=True)
        return [(path, problem) for path, problem in checked if problem]


def _is_turned(image: Image.Image) -> bool:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1)) > 4


class Form(NamedTuple):
    """What the header of an image file says.

    Attributes:
        format: The file's format.
        mode: Pillow's mode.
        size: Width and height of the upright image, in pixels.
        deep: Whether it has more than 8 bits per channel, without saying which value is white.
    """

    format: str
    mode: str
    size: tuple[int, int]
    deep: bool

    @property
    def is_colour(self) -> bool:
        """Whether it has several channels."""
        return self.mode not in _DEEP_GREY


def forms(paths: Sequence[Path]) -> list[Form]:
    """Return the form of each usable image, by its header."""

    def read(path: Path) -> Form:
        with _opened(path, MAX_PIXELS, _ANY) as image:
            width, height = image.size
            # For a TIFF, Pillow's size is already that of the upright image.
            if image.format != "TIFF" and _is_turned(image):
                width, height = height, width
            # Pillow scales the values of a PGM file by the largest one, which the file states.
            deep = image.format != "PPM" and (
                _is_deep_grey(image)
                or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
            )
            return Form(str(image.format), image.mode, (width, height), deep)

    with _quiet(), ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(read, paths))


def largest_value(paths: Sequence[Path]) -> float:
    """Return the largest value of deep grey images.

    Raises:
        DataError: An image cannot be read, or has values below 0 or above 65535.
    """

    def read(path: Path) -> float:
        with _opened(path, MAX_PIXELS, None) as image:
            image.load()
            values = np.asarray(image)
            _eight_bit(image, str(path), None)
            return float(values.max())

    with _quiet(), ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return max(pool.map(read, paths))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata and large images, because only pixels matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path, max_pixels: int, value_range: ValueRange) -> Iterator[Image.Image]:
    """Open a file lazily. All its problems, now or later, become a DataError."""
    where = str(path)
    with _as_data_error(where, max_pixels):
        # A FIFO or device would block the read for ever.
        if not path.is_file():
            raise DataError(_missing(path), where=where, hint=_HINT)
        try:
            # Pass a stream, not a name: given a name, Pillow maps the file into memory. It then
            # mixes up the rows of rotated TIFFs, and crashes with SIGBUS if the file shrinks.
            with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
                _check(image, where, max_pixels, value_range)
                yield image
        except UnidentifiedImageError:
            empty = path.stat().st_size == 0
            what = "the file is empty" if empty else "not an image"
            allowed = None if empty else ", ".join(FORMATS)
            raise DataError(what, where=where, allowed=allowed, hint=_HINT) from None


@contextmanager
def _as_data_error(where: str, max_pixels: int) -> Iterator[None]:
    """Turn every problem with an image into a DataError."""
    try:
        yield
    except (SiamkitError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(where, None, max_pixels) from None
    # Decoders raise almost any exception for damaged bytes: SyntaxError, struct.error, IndexError.
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise DataError(f"cannot read the image: {reason}", where=where, hint=_HINT) from error


def _check(image: Image.Image, where: str, max_pixels: int, value_range: ValueRange) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise _too_large(where, pixels, max_pixels)
    if image.mode == "F" and not isinstance(value_range, tuple):
        raise _no_range(where, "32-bit floats")


def _too_large(where: str, pixels: int | None, max_pixels: int) -> DataError:
    return DataError(
        "the image has too many pixels",
        where=where,
        got=pixels,
        allowed=f"up to {max_pixels}",
        hint="scale it down",
    )


def _missing(path: Path) -> str:
    if path.exists():
        return "not a regular file"
    return "a symbolic link to nothing" if path.is_symlink() else "no such file"


def _no_range(where: str, what: str) -> DataError:
    return DataError(
        f"the pixels are {what}, for which black and white are not defined",
        where=where,
        allowed="8 or 16 bits per channel",
        hint=f"state them by {setting('data.range', [0, 1])}, or convert the file",
    )


def _to_mode(image: Image.Image, mode: str, where: str, value_range: ValueRange) -> Image.Image:
    if _is_deep_grey(image):
        image = _eight_bit(image, where, value_range)
    elif image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa"):
        image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    rgba = image.convert("RGBA")
    if not mode.endswith("A"):
        rgba = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return rgba.convert(mode)


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in _DEEP_GREY


def _eight_bit(image: Image.Image, where: str, value_range: ValueRange) -> Image.Image:
    """Scale deep grey to 8 bits. Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if isinstance(value_range, tuple):
        low, high = value_range
        if not np.isfinite(values).all():
            raise DataError("has pixels that are NaN or infinite", where=where, hint=_HINT)
        share = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        scaled = Image.fromarray((share * 255 + 0.5).astype(np.uint8))
    else:
        # Pillow scales the values of a PGM file to 16 bits.
        bits = 16 if value_range is None or image.format == "PPM" else value_range
        white = 2**bits - 1
        if values.min() < 0 or values.max() > 65535:
            raise _no_range(where, "32-bit integers")
        if values.max() > white:
            raise DataError(
                f"has values that do not fit into the {bits} bits of the other images",
                where=where,
                got=int(values.max()),
                allowed=f"0 to {white}",
                hint=f"convert the file, or train with {setting('data.range', 'full')}",
            )
        wide = values.astype(np.uint32)
        scaled = Image.fromarray(((wide * 255 + white // 2) // white).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the grey value that is transparent, in the file's own scale
        scaled.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return scaled
