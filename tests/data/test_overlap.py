"""Images that are in another set, by their place or by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from siamkit.data.images import Sample
from siamkit.data.overlap import Content, found_in


def sample(path: Path, box: tuple[float, float, float, float] | None = None) -> Sample:
    return Sample(path, 0, path.name, box)


def test_an_image_is_found_by_its_place_or_by_its_content(tmp_path: Path) -> None:
    a, copy, other, longer = (tmp_path / name for name in ("a", "copy", "other", "longer"))
    for path, text in ((a, "one"), (copy, "one"), (other, "two"), (longer, "longer")):
        path.write_text(text)
    images = [sample(path) for path in (a, tmp_path / "sub/../a", copy, other, longer)]
    assert found_in(images, [sample(a)]) == [True, True, True, False, False]
    memory = [Content(3, hashlib.sha256(text).digest()) for text in (b"one", b"six")]
    assert found_in(memory, [sample(a)]) == [True, False]
    assert found_in([sample(a)], []) == [False]


def test_two_boxes_of_one_file_are_two_images(tmp_path: Path) -> None:
    a, copy = tmp_path / "a", tmp_path / "copy"
    for path in (a, copy):
        path.write_text("one")
    left, right = (0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 2.0, 1.0)
    known = [sample(a, left)]
    images = [sample(path, box) for path in (a, copy) for box in (left, right, None)]
    assert found_in(images, known) == [True, False, False, True, False, False]


def test_boxes_that_cut_out_the_same_pixels_are_one_image(tmp_path: Path) -> None:
    a, copy = tmp_path / "a", tmp_path / "copy"
    for path in (a, copy):
        path.write_text("one")
    known = [sample(a, (0.0, 0.0, 4.0, 4.0))]
    images = [sample(path, (0.5, 0.0, 3.5, 4.0)) for path in (a, copy)]
    assert found_in([*images, sample(a, (0.5, 0.0, 4.5, 4.0))], known) == [True, True, False]


def test_what_is_out_of_reach_is_not_known(tmp_path: Path) -> None:
    a, gone = tmp_path / "a", tmp_path / "gone"
    a.write_text("one")
    assert found_in([sample(a)], [sample(gone)]) == [None]
    assert found_in([sample(gone)], [sample(a)]) == [None]
    assert found_in([sample(gone)], [sample(gone)]) == [True]


def test_a_file_that_cannot_be_read_is_not_known(tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("one")
    opened = Path.open

    def refusing(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "b":
            raise PermissionError
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    assert found_in([sample(tmp_path / "a")], [sample(tmp_path / "b")]) == [None]
