from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from siamkit.errors import DataError
from siamkit.portable.decode import Decoding, decode, prepare
from siamkit.portable.depth import to_eight_bit
from siamkit.portable.looking import look, unreadable, values_of

RAMP = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:  # type: ignore[type-arg]
    Image.fromarray(pixels).save(path, **options)
    return path


def test_twelve_bits_in_a_file_of_sixteen_keep_all_their_greys(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RAMP)
    full, twelve = (np.asarray(decode(path, Decoding(1, r))) for r in (None, 12))
    assert len(np.unique(full)) <= 17
    assert len(np.unique(twelve)) == 256
    assert (twelve.min(), twelve.max()) == (0, 255)


@given(st.integers(0, 65535))
def test_sixteen_bits_are_the_full_range(value: int) -> None:
    image = Image.fromarray(np.array([[value, 0]], np.uint16))
    full, sixteen = (np.asarray(to_eight_bit(image, r, ""))[0, 0] for r in (None, 16))
    assert full == sixteen == int(value / 257 + 0.5)


@given(st.integers(9, 16), st.data())
def test_the_largest_value_is_white_and_the_order_stays(bits: int, data: st.DataObject) -> None:
    white = 2**bits - 1
    values = sorted(data.draw(st.lists(st.integers(0, white), min_size=1, max_size=20)))
    image = Image.fromarray(np.array([[*values, white]], np.uint16))
    found = np.asarray(to_eight_bit(image, bits, ""))[0].tolist()
    assert found == sorted(found) and found[-1] == 255
    assert all(abs(f - 255 * v / white) <= 0.5 + 1e-9 for f, v in zip(found, values, strict=False))


def test_values_beyond_the_bits_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 4096]], np.uint16))
    with pytest.raises(DataError, match=r"12 bits .* got 4096, allowed: 0 to 4095"):
        decode(path, Decoding(1, 12))
    assert unreadable([path], Decoding(1, 12), full=True)[0][0] == path
    assert unreadable([path], full=True) == []


@pytest.mark.parametrize(
    ("low", "high", "fits"), [(0, 65535, True), (0, 65536, False), (-1, 65535, False)]
)
def test_integers_of_32_bits_are_read_if_they_fit_into_16(
    tmp_path: Path, low: int, high: int, fits: bool
) -> None:
    path = saved(tmp_path / "a.tif", np.array([[low, high]], np.int32))
    if fits:
        assert np.asarray(decode(path, Decoding(1))).tolist() == [[0, 255]]
        return
    with pytest.raises(DataError, match=r"32-bit integers, for which black and white are not") as e:
        decode(path, Decoding(1))
    # With [0, 1], which suits floats, all of these images would be white.
    assert "BLACK,WHITE" in str(e.value.hint)


def test_values_are_rounded_to_the_nearest_grey(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.array([[0, 8, 9, 4087, 4086, 4095]], np.uint16))
    # A grey is 4095 / 255 = 16.06 values wide.
    assert np.asarray(decode(path, Decoding(1, 12))).tolist() == [[0, 0, 1, 255, 254, 255]]
    window = np.asarray(decode(path, Decoding(1, (0, 4095))))
    assert window.tolist() == [[0, 0, 1, 255, 254, 255]]


def test_a_window_clips(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[-1000, 0, 100, 200, 3000]], np.int32))
    found = np.asarray(decode(path, Decoding(1, (0, 200))))
    assert found.tolist() == [[0, 0, 128, 255, 255]]


def test_floats_need_a_window(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.array([[0.0, 0.5, 1.0]], np.float32))
    with pytest.raises(DataError, match=r"32-bit floats.*\'range\': \[0, 1\]"):
        decode(path, Decoding(1))
    assert unreadable([path]) and not unreadable([path], Decoding(1, (0, 1)))
    assert np.asarray(decode(path, Decoding(1, (0, 1)))).tolist() == [[0, 128, 255]]
    broken = saved(tmp_path / "b.tif", np.array([[0.0, np.nan]], np.float32))
    with pytest.raises(DataError, match="NaN"):
        decode(broken, Decoding(1, (0, 1)))


@pytest.mark.parametrize("value_range", [None, 12, (0.0, 4095.0)])
def test_the_transparent_value_of_deep_grey_becomes_white(
    tmp_path: Path, value_range: int | tuple[float, float] | None
) -> None:
    pixels = np.array([[0, 5, 4095]], np.uint16)
    path = tmp_path / "a.png"
    image = Image.fromarray(pixels)
    image.save(path, transparency=5)
    with Image.open(path) as written:
        assert written.info["transparency"] == 5
    assert np.asarray(decode(path, Decoding(1, value_range)))[0, 1] == 255
    assert np.asarray(decode(path, Decoding(2, value_range)))[0, 1, 1] == 0
    assert np.asarray(decode(path, Decoding(2, value_range)))[0, ::2, 1].tolist() == [255, 255]


def test_eight_and_sixteen_bits_with_a_transparent_value_are_alike(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png", transparency=100)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png", transparency=100 * 257)
    eight, sixteen = (decode(tmp_path / f"{n}.png", Decoding(3)) for n in (8, 16))
    assert eight.tobytes() == sixteen.tobytes()


def test_a_file_that_states_its_white_is_not_scaled_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    expected = [[0, 128, 255]]
    assert np.asarray(decode(path, Decoding(1))).tolist() == expected
    assert np.asarray(decode(path, Decoding(1, 12))).tolist() == expected
    assert not next(iter(look([path]))).deep


def test_deep_images_are_known_by_their_header(tmp_path: Path) -> None:
    eight = saved(tmp_path / "8.png", np.zeros((2, 2, 3), np.uint8))
    grey = saved(tmp_path / "16.png", RAMP)
    colour = tmp_path / "colour.png"
    colour.write_bytes(deep_colour())
    assert [facts.deep for facts in look([eight, grey, colour])] == [False, True, True]
    assert values_of([grey]).largest == 4095


def deep_colour() -> bytes:
    """Return a PNG of one pixel with 16 bits in each of three channels. Pillow writes none."""
    import io
    import struct
    import zlib

    stream = io.BytesIO(b"")
    stream.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(stream, b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    row = b"\0" + np.array([4095, 2048, 0], ">u2").tobytes()
    PngImagePlugin.putchunk(stream, b"IDAT", zlib.compress(row))
    PngImagePlugin.putchunk(stream, b"IEND", b"")
    return stream.getvalue()


def test_images_in_memory_have_the_range_too() -> None:
    image = Image.fromarray(RAMP)
    assert len(np.unique(np.asarray(prepare(image, Decoding(1, 12))))) == 256
