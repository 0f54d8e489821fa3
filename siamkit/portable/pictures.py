"""Pictures: images in memory, as Pillow images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFile

from ..errors import DataError
from .decode import Decoding, prepare, quiet, require_size, upright
from .depth import is_deep_grey
from .preprocessing import MAX_PIXELS

_UNREADABLE = (OSError, SyntaxError, ValueError)  # the type depends on the image's format
_LOSSLESS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG stores unchanged


def picture_of(image: Any, where: str) -> Image.Image:
    """Return a Pillow image unchanged, and an array or a tensor as a Pillow image.

    Args:
        image: A Pillow image, a numpy array ``[H, W]`` or ``[H, W, C]``, or a torch tensor
            ``[H, W]`` or ``[C, H, W]``. Arrays and tensors hold bool, uint8, uint16 (grey images
            only), or floats in [0, 1], which become 8 bits.
        where: The name of the image in messages.

    Raises:
        DataError: The argument is none of these.
    """
    if isinstance(image, Image.Image):
        return image
    if hasattr(image, "detach"):  # a torch tensor, without importing torch
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
        layout = "[H, W] or [C, H, W] for a torch tensor"
    elif isinstance(image, np.ndarray):
        array, layout = image, "[H, W] or [H, W, C] for a numpy array"
    else:
        raise DataError(
            "is not an image",
            where=where,
            got=type(image).__name__,
            allowed="a path, a Pillow image, a numpy array or a torch tensor",
        )
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    usable = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (2, 3, 4))
    if not (usable and array.size):
        raise DataError(
            "the array is not an image",
            where=where,
            got=f"shape {list(image.shape)}",
            allowed=f"{layout}, with 1 to 4 channels and at least one pixel",
        )
    return Image.fromarray(_bytes(array, where))


def own_copy(image: Any, where: str) -> Any:
    """Return an image that stays as it is while an iterator goes on.

    An iterator can hand out one object again and again, such as the next frame of a Pillow image,
    or an array that is filled anew. A file that holds one image is not copied, so it stays unread.

    Args:
        image: An image, as for :func:`picture_of`; anything else is returned unchanged.
        where: The name of the image in messages.

    Raises:
        DataError: The image cannot be read.
    """
    if hasattr(image, "detach"):  # a torch tensor, without importing torch
        return image.detach().clone()
    if isinstance(image, np.ndarray):
        return image.copy()
    if not isinstance(image, Image.Image):
        return image
    try:
        with quiet():
            if isinstance(image, ImageFile.ImageFile) and getattr(image, "n_frames", 1) == 1:
                return image
            copied = upright(image)[0].copy()  # a copy has no orientation of its own
    except _UNREADABLE as error:
        raise _unreadable(error, where) from error
    copied.format = image.format
    return copied


def _unreadable(error: Exception, where: str) -> DataError:
    return DataError(f"the image cannot be read: {error}", where=where)


def storable(image: Any, where: str) -> tuple[Image.Image, str]:
    """Return an image in memory, and the format of a file that stores it for the decoder.

    The file decodes to the pixels that :func:`.decode.prepare` returns for the image, whatever the
    number of channels and the range of values.

    Args:
        image: The image, as for :func:`picture_of`.
        where: The name of the image in messages.

    Returns:
        The image, upright, and ``PNG``, ``PPM`` or ``TIFF``.

    Raises:
        DataError: The argument is not an image, has too many pixels, or cannot be read.
    """
    picture = picture_of(image, where)
    require_size(picture, where, MAX_PIXELS)
    try:
        turned = upright(picture)[0].copy()
    except _UNREADABLE as error:
        raise _unreadable(error, where) from error
    if is_deep_grey(turned):
        if picture.format == "PPM":  # which states its largest value: the range does not apply
            return turned, "PPM"
        values = np.asarray(turned)
        if turned.mode == "F" or not 0 <= values.min() <= values.max() <= 65535:
            return turned, "TIFF"
        if turned.mode != "I;16":
            return Image.fromarray(values.astype(np.uint16)), "PNG"
    if turned.mode in _LOSSLESS:
        return turned, "PNG"
    return prepare(turned, Decoding(), where=where), "PNG"


def _bytes(array: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2):
        return np.ascontiguousarray(array)
    if np.issubdtype(array.dtype, np.floating):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):  # NaN is refused as well
            raise DataError(
                "floating-point pixels must be between 0 and 1",
                where=where,
                got=f"{low:g} to {high:g}",
                hint="pass images before normalisation: siamkit normalises them for the backbone",
            )
        return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))
    raise DataError(
        "unsupported type of pixels",
        where=where,
        got=str(array.dtype),
        allowed="uint8, uint16 for grey images, or floats in [0, 1]",
    )
