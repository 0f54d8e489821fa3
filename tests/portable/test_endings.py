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
    ("a.txt", False), ("a.json", False), ("a.pdf", False), ("a.tar.gz", False), ("a.mp4", False),
    ("a", None), ("a.jpg_large", None), ("a.npy", None),
])  # fmt: skip
def test_other_names_are_told_apart(name: str, is_image: bool | None) -> None:
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
    ):
        path.write_bytes(content)
        assert not holds_image(path)
    assert not holds_image(tmp_path / "gone") and not holds_image(tmp_path)
