"""Images in memory: prepared and stored as their files are decoded."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from siamkit.errors import DataError
from siamkit.portable.decode import Decoding, decode, prepare
from siamkit.portable.pictures import picture_of, storable

from .odd import odd_images

DEEP = np.linspace(0, 4095, 40 * 30).reshape(30, 40).astype(np.uint16)
RANGES = (None, 12, 16, (0.0, 1.0), (100.0, 2000.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Odd images, and images of more than 8 bits."""
    folder = tmp_path_factory.mktemp("images")
    made = odd_images(folder)
    turned = Image.Exif()
    turned[0x0112] = 6

    def save(kind: str, pixels: np.ndarray, ending: str = "tif", **options: object) -> None:
        made[kind] = folder / f"deep_{kind}.{ending}"
        Image.fromarray(pixels).save(made[kind], **options)

    save("deep_png", DEEP, "png")
    save("deep_png_turned", DEEP, "png", exif=turned)
    save("deep_png_clear", DEEP, "png", transparency=int(DEEP[3, 3]))
    save("deep_tiff", DEEP)
    save("deep_tiff_turned", DEEP, tiffinfo=_tags({274: 6}))
    save("floats", DEEP.astype(np.float32) / 4095)
    save("large_integers", DEEP.astype(np.int32) * 100)
    save("integers", DEEP.astype(np.int32))
    save("negative", DEEP.astype(np.int32) - 100)
    for kind, white in (("pgm_12", 4095), ("pgm_16", 65535)):
        made[kind] = folder / f"{kind}.pgm"
        made[kind].write_bytes(b"P5\n40 30\n%d\n" % white + DEEP.astype(">u2").tobytes())
    big = folder / "big_endian.tif"
    Image.frombytes("I;16B", (40, 30), DEEP.astype(">u2").tobytes()).save(big)
    return {**made, "big_endian": big}


def _tags(values: dict[int, int]) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in values.items():
        tags[tag] = value
    return tags


def opened(path: Path) -> Image.Image:
    """Open a file from a stream: given a name, Pillow mixes up the rows of turned TIFFs."""
    return Image.open(io.BytesIO(path.read_bytes()))


def result_of(function) -> tuple | None:
    """Return the mode, the size and the pixels of an image; None if it is refused."""
    try:
        image = function()
    except DataError:
        return None
    return image.mode, image.size, image.tobytes()


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_opened_image_is_prepared_as_its_file_is_decoded(value_range, channels, files):
    how = Decoding(channels, value_range)
    for kind, path in files.items():
        with opened(path) as image:
            found = result_of(lambda: prepare(picture_of(image, "x"), how))
        assert found == result_of(lambda: decode(path, how)), kind  # noqa: B023


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stored_image_decodes_as_its_file_does(value_range, channels, files, tmp_path):
    how = Decoding(channels, value_range)
    for kind, path in files.items():
        with opened(path) as image:
            stored, form = storable(image, "x")
        stored.save(tmp_path / "stored", form)
        found = result_of(lambda: decode(tmp_path / "stored", how))
        assert found == result_of(lambda: decode(path, how)), kind  # noqa: B023


def test_deep_images_of_the_right_range_are_not_refused(files):
    kinds = {kind for kind, path in files.items() if result_of(lambda: decode(path))}  # noqa: B023
    assert kinds == set(files) - {"floats", "large_integers", "negative"}
    for kind, value_range in (("pgm_12", 12), ("floats", (0.0, 1.0)), ("deep_tiff", 12)):
        assert result_of(lambda: decode(files[kind], Decoding(3, value_range)))  # noqa: B023


def test_an_image_in_memory_stays_as_it_is(files):
    image = opened(files["pgm_12"])
    assert picture_of(image, "x") is image
    before = image.tobytes()
    prepare(image, Decoding(1))
    storable(image, "x")
    assert image.tobytes() == before and image.mode == "I"


def test_arrays_are_pixels_of_8_bits_16_bits_or_shares():
    bytes_ = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(np.asarray(picture_of(bytes_, "x")), bytes_)
    flags = np.array([[True, False], [False, True]])
    assert np.asarray(picture_of(flags, "x")).tolist() == [[255, 0], [0, 255]]
    shares = np.array([[0.0, 0.001], [0.5, 1.0]])
    assert np.asarray(picture_of(shares, "x")).tolist() == [[0, 0], [128, 255]]
    assert np.array_equal(np.asarray(picture_of(DEEP, "x")), DEEP)
    assert np.asarray(picture_of(np.array([[0.2, 0.6]]), "x")).tolist() == [[51, 153]]
    one = picture_of(bytes_[..., :1], "x")
    assert one.mode == "L" and np.array_equal(np.asarray(one), bytes_[..., 0])
    narrow = bytes_[:, :1]
    assert np.array_equal(np.asarray(picture_of(narrow, "x")), narrow), "one pixel wide"


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.0, 1.001]]), "must be between 0 and 1, got '0 to 1.001'"),
        (np.array([[-0.001, 1.0]]), "must be between 0 and 1, got '-0.001 to 1'"),
        (np.array([[0.0, np.nan]]), "must be between 0 and 1"),
        (np.ones((2, 2), np.int64), "unsupported type of pixels, got 'int64'"),
        (np.ones((2, 2, 3), np.uint16), "unsupported type of pixels, got 'uint16'"),
    ],
)
def test_other_arrays_are_refused(pixels, message):
    with pytest.raises(DataError, match=message):
        picture_of(pixels, "x")


def test_an_image_that_breaks_while_it_is_read_is_refused(files):
    path = files["deep_png"]
    broken = Image.open(io.BytesIO(path.read_bytes()[:-40]))
    with pytest.raises(DataError, match="the image cannot be read"):
        storable(broken, "x")


@pytest.mark.parametrize(
    ("low", "high", "form"),
    [(0, 65535, "PNG"), (0, 65536, "TIFF"), (-1, 65535, "TIFF"), (3, 4, "PNG"), (7, 7, "PNG")],
)
def test_integers_are_stored_in_16_bits_if_they_fit(low, high, form):
    image = Image.fromarray(np.array([[low, high]], dtype=np.int32))
    stored, found = storable(image, "x")
    assert (found, stored.getextrema()) == (form, (low, high))
