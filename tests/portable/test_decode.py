import io
import os
import struct
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import BmpImagePlugin, Image

from siamkit.errors import DataError
from siamkit.portable.decode import Decoding, _as_data_error, decode, prepare, read_pixels, upright
from siamkit.portable.looking import look, unreadable
from siamkit.portable.preprocessing import Preprocessing

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


def test_eight_bit_images_are_unchanged(path):
    Image.new("RGB", (2, 1), (10, 20, 30)).save(path, "PNG")
    image = decode(path, Decoding(3))
    assert image.mode == "RGB"
    assert pixels(image) == [[[10, 20, 30], [10, 20, 30]]]


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("source", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "LAB"])
def test_every_mode_becomes_every_channel_count(path, channels, mode, source):
    Image.new(source, (3, 2)).save(path, "TIFF")
    image = decode(path, Decoding(channels))
    assert (image.mode, image.size) == (mode, (3, 2))


@pytest.mark.parametrize("channels, expected", [
    (1, [76, 150]),
    (2, [[76, 255], [150, 255]]),
    (3, [RED, GREEN]),
    (4, [(*RED, 255), (*GREEN, 255)]),
])  # fmt: skip
def test_opaque_colours(path, channels, expected):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    image.save(path, "PNG")
    assert np.array_equal(pixels(decode(path, Decoding(channels)))[0], expected)


@pytest.mark.parametrize("channels, expected", [
    (1, [255, 165]),
    (2, [[76, 0], [76, 128]]),
    (3, [WHITE, (255, 127, 127)]),
    (4, [(*RED, 0), (*RED, 128)]),
])  # fmt: skip
def test_transparency_lies_on_white_or_stays(path, channels, expected):
    image = Image.new("RGBA", (2, 1), (*RED, 0))
    image.putpixel((1, 0), (*RED, 128))
    image.save(path, "PNG")
    assert np.array_equal(pixels(decode(path, Decoding(channels)))[0], expected)


def test_transparent_grey_lies_on_white(path):
    Image.new("LA", (1, 1), (0, 0)).save(path, "PNG")
    assert pixels(decode(path, Decoding(1))) == [[255]]
    assert pixels(decode(path, Decoding(3))) == [[list(WHITE)]]


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_transparent_palette_entry_lies_on_white(path, file_format):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(path, file_format, transparency=0)
    assert np.array_equal(pixels(decode(path, Decoding(3)))[0], [WHITE, GREEN])
    assert pixels(decode(path, Decoding(4)))[0][0][3] == 0


def test_transparent_colour_key_lies_on_white(path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    image.save(path, "PNG", transparency=RED)
    assert np.array_equal(pixels(decode(path, Decoding(3)))[0], [WHITE, GREEN])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(path, file_format):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(path, file_format)
    assert pixels(decode(path, Decoding(1))) == [[0, 0, 1, 1, 128, 255]]
    assert pixels(decode(path, Decoding(3)))[0][4] == [128, 128, 128]


def test_cmyk_becomes_rgb(path):
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(path, "TIFF")
    assert pixels(decode(path, Decoding(3))) == [[list(RED)]]


def test_one_bit_becomes_black_and_white(path):
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    image.save(path, "PNG")
    assert pixels(decode(path, Decoding(1))) == [[0, 255]]


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(path, file_format):
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:], **options)
    assert pixels(decode(path, Decoding(3)))[0][0] == list(RED)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation, expected", [
    (1, [[1, 2]]), (2, [[2, 1]]), (3, [[2, 1]]), (4, [[1, 2]]),
    (5, [[1], [2]]), (6, [[1], [2]]), (7, [[2], [1]]), (8, [[2], [1]]),
])  # fmt: skip
def test_exif_orientation_is_applied_once(path, file_format, orientation, expected):
    image = Image.fromarray(np.array([[1, 2]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    image.save(path, file_format, exif=exif, **options)
    assert pixels(decode(path, Decoding(1))) == expected


def test_damaged_exif_does_not_hide_the_image(path):
    Image.new("RGB", (2, 2), RED).save(path, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert pixels(decode(path, Decoding(3)))[0][0] == list(RED)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_an_unreadable_exif_block_makes_the_image_upright_in_check_and_use(path, file_format):
    image = Image.new("RGB", (3, 2), RED)
    image.save(path, file_format, exif=b"Exif\0\0garbage!")
    assert decode(path, Decoding(3)).size == (3, 2)
    [facts] = look([path], full=True)
    assert (facts.problem, facts.oriented) == (None, False)
    assert prepare(Image.open(path), Decoding(3)).size == (3, 2)
    [facts] = look([path], boxes={path: [(0, 0, 3, 2)]})
    assert (facts.problem, facts.outside) == (None, ())
    image.save(path, file_format)
    assert [facts.oriented for facts in look([path], full=True)] == [True]


@given(
    exif=st.binary(max_size=80),
    start=st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]),
    file_format=st.sampled_from(["PNG", "WEBP", "JPEG"]),
)
def test_no_exif_data_hides_an_image_or_parts_check_and_use(
    tmp_path_factory, exif, start, file_format
):
    path = tmp_path_factory.mktemp("exif") / "image"
    Image.new("RGB", (3, 2), RED).save(path, file_format, exif=start + exif)
    assert sorted(decode(path, Decoding(3)).size) == [2, 3]
    assert unreadable([path], full=True) == unreadable([path]) == []


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "JPEG", "TIFF", "WEBP"])
def test_what_passes_the_full_check_can_be_used(path, file_format):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, file_format, exif=Image.Exif())
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        problem = dict(unreadable([path], full=True)).get(path)
        try:
            decode(path, Decoding(3))
        except DataError as error:
            assert error.what == problem
        else:
            assert problem is None


def test_an_image_is_turned_once_however_often_it_is_prepared(path):
    image = Image.new("RGB", (3, 2), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "PNG", exif=exif)
    turned, _ = upright(Image.open(path))
    assert turned.size == (2, 3) == prepare(turned, Decoding(3)).size


def test_a_box_outside_the_image_is_refused_by_check_and_use(path):
    Image.new("RGB", (3, 2)).save(path, "PNG")
    box = (0, 0, 4, 2)
    with pytest.raises(DataError, match=r"its box ends at 4,2, but the image ends at 3,2"):
        decode(path, Decoding(3), box)
    for full in (False, True):
        [facts] = look([path], boxes={path: [box]}, full=full)
        assert facts.problem_of(box) == "its box ends at 4,2, but the image ends at 3,2"


@pytest.mark.parametrize("full", [False, True])
def test_one_box_outside_the_image_is_no_problem_of_the_others_or_of_the_file(path, full):
    Image.new("RGB", (30, 20)).save(path, "JPEG")
    good, bad, touching = (0, 0, 9, 9), (5, 5, 31, 20), (20, 0, 30, 20)
    [facts] = look([path], Decoding(least=1), boxes={path: [good, bad, touching]}, full=full)
    assert facts.problem is facts.problem_of(good) is facts.problem_of(touching) is None
    assert facts.problem_of(None) is None
    assert facts.outside == ((bad, "its box ends at 31,20, but the image ends at 30,20"),)
    path.write_bytes(b"")
    [facts] = look([path], boxes={path: [good, bad]}, full=full)
    assert facts.problem_of(good) == facts.problem_of(bad) == "the file is empty"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_checked_against_the_upright_image(path, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (3, 2)).save(path, file_format, exif=exif)
    width, height = (2, 3) if orientation > 4 else (3, 2)
    for full in (False, True):
        inside, outside = (0, 0, width, height), (0, 0, height, width)
        [facts] = look([path], boxes={path: [inside, outside]}, full=full)
        assert facts.outside == (
            (outside, f"its box ends at {height},{width}, but the image ends at {width},{height}"),
        )


def test_a_single_pixel_is_an_image(path):
    Image.new("L", (1, 1), 7).save(path, "PNG")
    assert pixels(decode(path, Decoding(1))) == [[7]]


def failure(path: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        decode(path, Decoding(3, **options))
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_errors(path, file_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, file_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot read the image" in failure(path).what or "not an image" in failure(path).what


def test_an_empty_file_is_an_error(path):
    path.touch()
    assert "empty" in failure(path).what


def test_no_file_is_an_error(path):
    assert "no such file" in failure(path).what
    path.symlink_to("nowhere")
    assert "symbolic link to nothing" in failure(path).what


@pytest.mark.parametrize("content", [b"hello", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_formats_under_an_images_name_are_errors(path, content):
    path = path.with_suffix(".jpg")
    path.write_bytes(content)
    assert "not an image" in failure(path).what


def test_a_format_that_pillow_knows_but_the_allowlist_does_not_is_an_error(path):
    Image.new("RGB", (4, 4)).save(path, "PCX")
    assert "not an image" in failure(path).what


def test_the_format_is_told_by_content(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "photo.jpg", "PNG")
    assert pixels(decode(tmp_path / "photo.jpg", Decoding(3))) == [[list(RED)]]


def test_a_pipe_is_an_error_and_does_not_block(path):
    os.mkfifo(path)
    assert "not a regular file" in failure(path).what
    assert unreadable([path]) == [(path, "not a regular file")]


@pytest.mark.parametrize("values, what", [
    (np.zeros((1, 1), np.float32), "32-bit floats"),
    (np.full((1, 1), 70_000, np.int32), "32-bit integers"),
    (np.full((1, 1), -1, np.int32), "32-bit integers"),
])  # fmt: skip
def test_pixels_without_a_defined_range_are_errors(path, values, what):
    Image.fromarray(values).save(path, "TIFF")
    assert what in failure(path).what


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(b"\0" * 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + idat + chunk(b"IEND", b"")


@pytest.mark.parametrize("method", ["getexif", "load", "convert"])
def test_too_little_memory_is_no_fault_of_the_image(path, monkeypatch, method):
    Image.new("L", (3, 2)).save(path, "BMP")

    def fails(*args, **options):
        raise MemoryError

    for kind in (Image.Image, BmpImagePlugin.BmpImageFile):
        monkeypatch.setattr(kind, method, fails)
    with pytest.raises(MemoryError):
        decode(path, Decoding(3))


@pytest.mark.parametrize("orientation", ["6", (6,), 6.0])
def test_an_orientation_that_is_no_number_makes_the_image_upright(path, monkeypatch, orientation):
    Image.new("RGB", (3, 2)).save(path, "PNG")
    monkeypatch.setattr(Image.Image, "getexif", lambda self: {0x0112: orientation})
    [facts] = look([path], full=True)
    assert (facts.problem, facts.oriented) == (None, False)
    assert decode(path, Decoding(3)).size == (3, 2)


def test_a_box_is_widened_to_whole_pixels(path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path, "PNG")
    box = (1.9, 0.5, 4.1, 3.0)
    assert pixels(decode(path, Decoding(1), box)) == [
        [1, 2, 3, 4],
        [9, 10, 11, 12],
        [17, 18, 19, 20],
    ]
    assert decode(path, Decoding(1), (0.0, 0.0, 8.0, 6.0)).size == (8, 6)


def test_a_file_of_another_format_is_told_which_are_read(path):
    path.write_bytes(b"hello")
    error = failure(path)
    assert error.allowed == "BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
    assert error.hint == "repair or remove the file"
    path.write_bytes(b"")
    assert (failure(path).what, failure(path).allowed) == ("the file is empty", None)


def test_bombs_are_refused_before_decoding(path):
    path.write_bytes(png_header(20_000, 20_000))
    assert "too many pixels" in failure(path).what
    assert unreadable([path]) == [(path, "the image has too many pixels: more than 100,000,000")]


def test_the_pixel_cap_can_be_lowered_and_is_exact(path):
    Image.new("RGB", (10, 10)).save(path, "PNG")
    assert decode(path, Decoding(3, max_pixels=100)).size == (10, 10)
    error = failure(path, max_pixels=99)
    assert error.what == "the image has too many pixels: 100"
    assert error.allowed == "up to 99 (data.max_pixels)"
    for full in (False, True):
        assert unreadable([path], Decoding(max_pixels=99), full=full) == [(path, error.what)]


def test_a_small_file_with_very_many_pixels_is_refused_by_its_header(path):
    path.write_bytes(png_header(12_800, 12_800))  # within Pillow's own limit
    began = time.perf_counter()
    assert failure(path).what == "the image has too many pixels: 163,840,000"
    assert time.perf_counter() - began < 1


def test_large_images_below_the_cap_are_fine_without_a_warning(path):
    path.write_bytes(png_header(10_000, 10_000))  # Pillow warns from 89 megapixels on
    assert unreadable([path]) == []


def test_of_a_file_with_a_problem_nothing_else_is_known(path):
    [facts] = look([path])
    assert (facts.path, facts.problem, facts.hint) == (path, "no such file", None)
    assert (facts.format, facts.mode, facts.size) == ("", "", (0, 0))
    assert facts.oriented and not facts.deep
    Image.new("RGB", (3, 2)).save(path, "PNG")
    [facts] = look([path])
    assert (facts.problem, facts.format, facts.mode, facts.size) == (None, "PNG", "RGB", (3, 2))


def test_unreadable_lists_the_bad_files_in_order(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.new("L", (1, 1)).save(path) if i % 3 else path.touch()
    assert unreadable(paths) == [(path, "the file is empty") for path in paths[::3]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("source", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "LAB"])
def test_an_opened_image_becomes_what_its_file_does(path, channels, source):
    Image.new(source, (3, 2)).save(path, "TIFF")
    prepared, decoded = (
        prepare(Image.open(path), Decoding(channels)),
        decode(path, Decoding(channels)),
    )
    assert prepared.mode == decoded.mode and pixels(prepared) == pixels(decoded)


def test_an_opened_image_is_turned_upright_and_stays_as_it_is(path):
    image = Image.new("RGB", (3, 2), RED)
    image.putpixel((0, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "PNG", exif=exif)
    opened = Image.open(path)
    prepared = prepare(opened, Decoding(3))
    assert prepared.size == (2, 3) and pixels(prepared) == pixels(decode(path, Decoding(3)))
    assert opened.size == (3, 2) and opened.getexif()[0x0112] == 6


def test_what_is_wrong_with_an_opened_image_is_told(path):
    with pytest.raises(DataError, match="image 7: the pixels are 32-bit floats"):
        prepare(Image.new("F", (2, 2)), Decoding(3), where="image 7")
    with pytest.raises(DataError, match=r"too many pixels: 100, allowed: up to 99"):
        prepare(Image.new("L", (10, 10)), Decoding(max_pixels=99))
    with pytest.raises(DataError, match="the image is empty, got '0x2'"):
        prepare(Image.new("L", (0, 2)), Decoding(3))
    Image.new("RGB", (50, 50)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-30])
    with Image.open(path) as image, pytest.raises(DataError, match="cannot read the image"):
        prepare(image, Decoding(3))


def photo(size: tuple[int, int]) -> Image.Image:
    """A picture with smooth parts and edges at all scales, as photographs have."""
    generator = np.random.default_rng(0)
    image = Image.new("RGB", size)
    for scale in (4, 16, 64, 256):
        noise = generator.integers(0, 256, (scale, scale, 3), np.uint8)
        image = Image.blend(image, Image.fromarray(noise).resize(size), 0.5)
    return image


def unlike(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images at 64 px, in grey levels."""
    small = (np.asarray(i.resize((64, 64), Image.Resampling.BICUBIC), float) for i in (one, other))
    return float(np.abs(np.subtract(*small)).mean())


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((512, 512), 256, (256, 256)),
        ((511, 512), 256, (511, 512)),
        ((1027, 800), 256, (514, 400)),
        ((1030, 1100), 256, (258, 275)),
        ((2400, 256), 256, (2400, 256)),
        ((2500, 2200), 256, (313, 275)),
        ((2500, 2200), 1, (313, 275)),
        ((1024, 1024), None, (1024, 1024)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_fraction_that_keeps_enough_pixels(
    path, size, least, expected, mode
):
    whole = photo(size).convert(mode)
    whole.save(path, "JPEG", quality=95)
    image = decode(path, Decoding(3, least=least))
    assert (image.mode, image.size) == ("RGB", expected)
    assert unlike(image, decode(path)) < 2


def test_the_fraction_is_that_of_the_upright_image_and_other_formats_stay_whole(path):
    image, exif = photo((1200, 900)), Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)
    turned = decode(path, Decoding(least=300))
    assert turned.size == (450, 600) and unlike(turned, decode(path)) < 2
    for file_format in ("PNG", "WEBP", "TIFF", "BMP"):
        image.save(path, file_format)
        assert decode(path, Decoding(least=300)).size == (1200, 900)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def lossless(width: int, height: int) -> bytes:
    """A grey JPEG of the lossless process (ITU-T T.81, annex H); each row goes up and down."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    codes = bytes([0, 1, 1, 1, *[0] * 13, 0, 1, 2])  # the codes 0, 10 and 110
    row = "0" + "".join("101" if x % 2 == 0 else "100" for x in range(1, width))
    bits = row * height
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + data
    return b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, codes) + scan + b"\xff\xd9"


def test_a_jpeg_that_has_no_fraction_is_decoded_whole(path):
    path.write_bytes(lossless(400, 400))
    how = Decoding(least=50)
    assert decode(path, how).size == (400, 400)
    assert pixels(decode(path, how)) == pixels(decode(path))
    assert unreadable([path], how, full=True) == []
    path.write_bytes(lossless(400, 400)[:2000])
    ((_, whole),), ((_, part),) = (unreadable([path], h, full=True) for h in (Decoding(), how))
    assert whole == part


@pytest.mark.parametrize(("progressive", "claimed"), [(False, (400, 300)), (True, (1600, 1200))])
def test_what_a_decoder_keeps_counts_for_the_budget(path, progressive, claimed):
    photo((1600, 1200)).save(path, "JPEG", progressive=progressive)
    seen = []
    size = read_pixels(path, Decoding(least=300), None, lambda image: seen.append(image.size),
                       lambda image: image.size)  # fmt: skip
    assert (size, seen) == ((400, 300), [claimed])


def test_a_box_is_cut_out_of_the_whole_image(path):
    photo((1200, 900)).save(path, "JPEG")
    box = (10, 20, 1010, 820)
    assert decode(path, Decoding(least=100), box).size == (1000, 800)
    assert pixels(decode(path, Decoding(least=100), box)) == pixels(decode(path, box=box))


def test_a_network_gets_twice_as_many_pixels_as_it_needs(path):
    images = Preprocessing(size=(64, 80), crop_pct=0.8)
    assert Decoding.of(images).least == 200
    assert Decoding.of(replace(images, fit="squash")).least == 160
    assert Decoding.of(images, part=0.5).least == 320
    assert Decoding.of(replace(images, crop_pct=1.25)).least == 160


@settings(deadline=None)
@given(st.data())
def test_a_damaged_jpeg_fails_at_a_fraction_of_its_size_exactly_if_it_fails_whole(data):
    stream = io.BytesIO()
    photo((160, 120)).save(stream, "JPEG", quality=80, progressive=data.draw(st.booleans()))
    content = bytearray(stream.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(20, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(2, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        ((whole, _),) = unreadable([path], full=True) or [(None, None)]
        ((part, _),) = unreadable([path], Decoding(least=1), full=True) or [(None, None)]
    assert whole == part


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(5, "Input/output error", "a.png"), "Input/output error"),
        (OSError("image file is truncated"), "image file is truncated"),
        (struct.error("unpack requires 4 bytes"), "unpack requires 4 bytes"),
    ],
)
def test_the_reason_is_that_of_the_system_or_of_the_decoder(error, reason):
    with pytest.raises(DataError) as caught, _as_data_error("a.png", 1000):
        raise error
    assert caught.value.what == f"cannot read the image: {reason}"
