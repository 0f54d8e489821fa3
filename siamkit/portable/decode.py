"""The decoder: turns image files into images of one defined form.

A large JPEG is decoded at a half, a quarter or an eighth of its size, by the scaled cosine
transform of libjpeg, if that leaves twice as many pixels as are needed.

The decoder applies the EXIF orientation, puts transparent images on white, scales grey images of
more than 8 bits to 8 bits by a given range of values, converts CMYK to RGB, and takes the first
frame of an animation. A file that cannot be read, or has values outside the range, raises an error
that names the file. The data check and the training decode files with the same code, so no image
passes the check and fails later.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import DataError, SiamkitError
from .depth import is_deep_grey, require_range, to_eight_bit
from .geometry import Box, whole_pixels
from .pixel_budget import Claim, decoded_at_once
from .preprocessing import MAX_PIXELS, Preprocessing, ValueRange
from .together import Together

R = TypeVar("R")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are decoded. A file's format is found from its content, not its name."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
REPAIR = "repair or remove the file"
"""The next step for a damaged file."""

_MARGIN = 2
"""How many times as many pixels as the network gets a JPEG must keep on each side, if it is decoded
at a fraction of its size. With 2, features hardly change: their cosine to those of the whole image
is 0.999 or more (``tests/benchmarks/decoding.py``)."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; 1 is upright
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # can hold an orientation


@dataclass(frozen=True)
class Decoding:
    """How image files are decoded.

    Attributes:
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. With 1 or 3, transparent parts
            become white.
        value_range: The values that become black and white in images of more than 8 bits; see
            :class:`siamkit.Preprocessing`.
        max_pixels: The most pixels that an image may have. Larger images are refused before they
            are decoded.
        least: The pixels that the sides of a JPEG must have after it is decoded. Where a fraction
            of its size is as large, it is decoded at that, unless a box is cut out of it. None: at
            its whole size.
    """

    channels: int = 3
    value_range: ValueRange = None
    max_pixels: int = MAX_PIXELS
    least: int | None = None

    @classmethod
    def of(
        cls, images: Preprocessing, max_pixels: int = MAX_PIXELS, part: float | None = None
    ) -> Self:
        """Return how to decode images for a network with this preprocessing.

        Args:
            images: The preprocessing.
            max_pixels: The most pixels that an image may have.
            part: The smallest part of an image's sides that the network gets to see at once; None
                for that of evaluation.
        """
        if part is None:
            part = images.crop_pct if images.fit == "crop" else 1.0
        least = math.ceil(_MARGIN * max(images.size) / min(part, 1.0))
        return cls(images.channels, images.value_range, max_pixels, least)


RGB = Decoding()


def decode(path: Path, how: Decoding = RGB, box: Box | None = None) -> Image.Image:
    """Return the image in ``path``, upright and with 8 bits per channel.

    Args:
        path: The file.
        how: How to decode the file.
        box: The part of the upright image to return, widened to whole pixels; None for the whole
            image.

    Raises:
        DataError: The file is missing, empty, truncated, too large, or not in :data:`FORMATS`.
    """
    return with_decoded(path, how, box, lambda image: image)


def with_decoded(path: Path, how: Decoding, box: Box | None, use: Callable[[Image.Image], R]) -> R:
    """Return what ``use`` returns for an image that is decoded as :func:`decode` does.

    In threads, images do not pile up: their pixels count against :data:`.decoded_at_once` until
    ``use`` returns.
    """

    def work(claim: Claim) -> R:
        with quiet():
            return read_pixels(
                path, how, box, claim,
                lambda image: use(pixels_of(image, how, box, str(path))[0]),
            )  # fmt: skip

    return decoded_at_once.share(work)


def read_pixels(
    path: Path, how: Decoding, box: Box | None, claim: Claim, use: Callable[[Image.Image], R]
) -> R:
    """Open an image, and return what ``use`` returns for it, which reads its pixels.

    Args:
        path: The file.
        how: How to decode the file. If it allows it, and no box will be cut out, a large JPEG is
            decoded at a fraction of its size.
        box: The box that will be cut out.
        claim: Called before pixels are decoded.
        use: Reads the pixels. It is called once more if the fraction cannot be decoded.

    Raises:
        DataError: The image cannot be read.
    """
    with opened(path, how) as image:
        least = how.least if box is None else None
        if least is None or not _can_shrink(image, least):
            claim(image)
            return use(image)
        try:
            if whole := bool(image.info.get("progressive")):
                claim(image)  # its decoder keeps as much as the whole image at any size
            image.draft(None, (least, least))
            if not whole:
                claim(image)
            return use(image)
        except MemoryError:
            raise
        except Exception:  # the whole image tells why, or can be read: lossless JPEGs have one size
            how = replace(how, least=None)
    return read_pixels(path, how, box, claim, use)


def _can_shrink(image: Image.Image, least: int) -> bool:
    return isinstance(image, JpegImageFile) and min(image.size) >= 2 * least


def prepare(image: Image.Image, how: Decoding = RGB, *, where: str = "image") -> Image.Image:
    """Return an opened image as :func:`decode` would return it, but at its whole size.

    The given image is not changed.

    Args:
        image: The image, of any mode. The current frame of an animation is used.
        how: How to decode the image.
        where: The name of the image in messages.

    Raises:
        DataError: The image is empty, too large, truncated, or of a mode without a defined range.
    """

    def work(claim: Claim) -> Image.Image:
        with quiet(), _as_data_error(where, how.max_pixels):
            _check(image, where, how)
            claim(image)
            return pixels_of(image, how, None, where)[0]

    return decoded_at_once.share(work)


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return an image turned upright, and whether the image's orientation could be read.

    Damaged EXIF data leaves the pixels intact, so an image without a readable orientation counts as
    upright. The EXIF data of an image that is turned is removed.

    Raises:
        Exception: The pixels cannot be read. The type of the exception depends on the format.
    """
    image.load()
    orientation = orientation_of(image)
    # Not ImageOps.exif_transpose, which reads all of the EXIF data and writes it again.
    if (turn := _TURNS.get(orientation or 1)) is not None:
        image = image.transpose(turn)
        image.info = {key: value for key, value in image.info.items() if key not in _METADATA}
    return image, orientation is not None


def orientation_of(image: Image.Image) -> int | None:
    """Return the EXIF orientation of an opened image.

    Returns:
        The orientation; 1 if the image states none; None if the EXIF data cannot be read.
    """
    try:
        exif = image.getexif()
        if ExifTags.Base.Orientation not in exif and (block := image.info.get("exif")):
            Image.Exif().load(block)  # raises errors that Pillow's JPEG reader ignores
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # damaged bytes can raise almost any exception
        return None
    return orientation if isinstance(orientation, int) else None


def pixels_of(
    image: Image.Image, how: Decoding, box: Box | None, where: str
) -> tuple[Image.Image, bool]:
    """Return an opened image as :func:`decode` does, and whether its orientation could be read."""
    image, oriented = upright(image)
    require_inside(box, image.size, where)
    if is_deep_grey(image):
        image = to_eight_bit(image, how.value_range, where)
    image = _to_mode(image, _MODES[how.channels])
    if (pixels := whole_pixels(box)) is not None:
        image = image.crop(pixels)
    return image, oriented


def require_inside(box: Box | None, size: tuple[int, int], where: str) -> None:
    """Check that a box lies within an upright image.

    Raises:
        DataError: The box ends beyond the image.
    """
    if box is not None and (problem := outside(box, size)):
        raise DataError(problem, where=where)


def outside(box: Box, size: tuple[int, int]) -> str | None:
    """Return the problem of a box that ends beyond an upright image; None if it lies within."""
    width, height = size
    if box[2] <= width and box[3] <= height:
        return None
    return f"its box ends at {box[2]:g},{box[3]:g}, but the image ends at {width},{height}"


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


quiet = Together(_without_warnings)
"""Suppresses warnings within the block, in all threads.

Pillow warns about metadata and large images, but only pixels matter.
"""


@contextmanager
def opened(path: Path, how: Decoding) -> Iterator[Image.Image]:
    """Open an image file without decoding it.

    Raises:
        DataError: There is a problem with the file, now or when its pixels are read in the ``with``
            block.
    """
    where = str(path)
    with _as_data_error(where, how.max_pixels):
        # A FIFO or device would block the read for ever.
        if problem := missing(path):
            raise DataError(problem, where=where, hint=REPAIR)
        try:
            # Pass a stream, not a name: given a name, Pillow maps the file into memory. It then
            # mixes up the rows of rotated TIFFs, and crashes with SIGBUS if the file shrinks.
            with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
                _check(image, where, how)
                yield image
        except UnidentifiedImageError:
            empty = path.stat().st_size == 0
            what = "the file is empty" if empty else "not an image"
            allowed = None if empty else ", ".join(FORMATS)
            raise DataError(what, where=where, allowed=allowed, hint=REPAIR) from None


@contextmanager
def _as_data_error(where: str, max_pixels: int) -> Iterator[None]:
    """Turn every problem with an image into a DataError."""
    try:
        yield
    except (SiamkitError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(where, f"more than {max_pixels:,}", max_pixels) from None
    # Decoders raise almost any exception for damaged bytes: SyntaxError, struct.error, IndexError.
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise DataError(f"cannot read the image: {reason}", where=where, hint=REPAIR) from error


def require_size(image: Image.Image, where: str, max_pixels: int = MAX_PIXELS) -> None:
    """Check the size of an opened image, without decoding it.

    Raises:
        DataError: The image has no pixels, or too many.
    """
    if not image.width * image.height:
        raise DataError("the image is empty", where=where, got=f"{image.width}x{image.height}")
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise _too_large(where, f"{pixels:,}", max_pixels)


def _check(image: Image.Image, where: str, how: Decoding) -> None:
    require_size(image, where, how.max_pixels)
    require_range(image, how.value_range, where)


def _too_large(where: str, pixels: str, max_pixels: int) -> DataError:
    return DataError(
        f"the image has too many pixels: {pixels}",
        where=where,
        allowed=f"up to {max_pixels:,} (data.max_pixels)",
        hint="scale the image down, or raise the limit",
    )


def missing(path: Path) -> str | None:
    """Return why there is no regular file at a path; None if there is one.

    Raises:
        OSError: The folder cannot be read.
    """
    if path.is_file():
        return None
    if path.exists():
        return "not a regular file"
    return "a symbolic link to nothing" if path.is_symlink() else "no such file"


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa"):
        image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    rgba = image.convert("RGBA")
    if not mode.endswith("A"):
        rgba = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return rgba.convert(mode)
