from pathlib import Path

import pytest
from PIL import Image

from siamkit.portable.decode import FORMATS, Decoding, decode
from siamkit.portable.endings import holds_image, image_endings, is_image_name, is_other_image_name


def test_every_ending_of_a_format_that_is_read_counts(tmp_path: Path) -> None:
    endings = image_endings()
    assert {".jfif", ".jpe", ".jpg", ".apng", ".pbm", ".tif", ".mpo"} <= endings
    for ending, name in Image.registered_extensions().items():
        if name in FORMATS and ending != ".pfm":
            path = tmp_path / f"image{ending}"
            Image.new("1" if ending == ".pbm" else "L", (2, 2)).save(path)
            assert is_image_name(path.name) and decode(path, Decoding(3)).size == (2, 2)


@pytest.mark.parametrize(("name", "is_image"), [
    ("a.heic", True), ("a.AVIF", True), ("a.svg", True), ("a.psd", True), ("a.pfm", True),
    ("a.pict", True),
    ("a.txt", False), ("a.json", False), ("a.pdf", False), ("a.tar.gz", False), ("a.mp4", False),
    ("a", False), ("a.jpg_large", False), ("a.npy", False),
])  # fmt: skip
def test_other_names_are_told_apart(name: str, is_image: bool) -> None:
    assert not is_image_name(name)
    assert is_other_image_name(name) is is_image


def test_an_image_is_told_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for name in FORMATS:
        Image.new("RGB", (40, 40)).save(path, name)
        assert holds_image(path)
    for content in (
        b"",
        b"P",
        b"a text of more than sixteen bytes",
        b"\x93NUMPY\x01\0" + b"\0" * 90,
        b"BMW, Audi and other cars; a text with the signature of a BMP" * 9,
        b"Python and PHP; a text with the signature of a PPM" * 9,
        b"P0001: a patient of whom there are no images yet" * 9,
    ):
        path.write_bytes(content)
        assert not holds_image(path)
    Image.new("1", (20_000, 20_000)).save(path, "PNG")  # more pixels than Pillow reads
    assert holds_image(path)
    assert not holds_image(tmp_path / "gone") and not holds_image(tmp_path)


def test_too_little_memory_is_no_reason_to_take_a_file_for_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    Image.new("RGB", (40, 40)).save(path, "PNG")

    def fails(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(MemoryError):
        holds_image(path)


def test_a_signature_needs_sixteen_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for length in (15, 16):
        path.write_bytes(b"P1\n3 1\n1 0 1".ljust(length))
        assert holds_image(path) == (length == 16)
