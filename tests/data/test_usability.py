"""Images that cannot be used: told with their rows, refused or left out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from people import keys, load, pair_rows, rows_of, table
from PIL import Image

from siamkit.config import DataConfig
from siamkit.data.opening import open_source
from siamkit.data.usability import usable
from siamkit.errors import DataError

Nobody = Callable[[], AbstractContextManager[None]]


def truncate(path: Path) -> bytes:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path.read_bytes()


def test_unreadable_images_are_all_told_before_training(make_images) -> None:
    root = make_images({"a": 14})
    for i in range(12):
        (root / f"a/{i}.png").write_bytes(b"")
    (root / "a/0.png").unlink()
    (root / "a/0.png").symlink_to("gone")
    with pytest.raises(DataError) as caught:
        load(root)
    message = str(caught.value)
    assert message.startswith(f"{root}: 12 of 14 images cannot be used:\n")
    assert "\n  a/0.png: a symbolic link to nothing\n" in message
    assert "\n  a/1.png: the file is empty\n" in message
    assert message.count("the file is empty") == 9
    assert "... and 2 more; repair or remove them, or use data={'on_unreadable': 'skip'}" in message
    assert caught.value.exit_code == 3


def test_the_facts_of_usable_images_are_about_those_that_are_left(make_images) -> None:
    root = make_images({"a": 3, "b": 3}, size=40)
    truncate(root / "a/1.png")
    config = DataConfig(path=str(root), on_unreadable="skip", max_skipped=0.5)
    found = usable(open_source(config.path), config)
    assert set(found.facts) == {path for path, _ in found.source.images()}
    assert len(found.facts) == 5
    assert not any(one.problem for one in found.facts.values())


@pytest.mark.parametrize("how", ["skip", "quarantine"])
def test_truncated_images_are_left_out_and_told(make_images, how: str) -> None:
    root = make_images({f"c{i}": 6 for i in range(8)}, size=40)
    left = truncate(root / "c0/3.png")
    splits = load(root, on_unreadable=how)
    assert "c0/3.png" not in keys(splits.train) | keys(splits.val)
    assert len(splits.train) + len(splits.val) == 47
    [(path, why)] = splits.skipped
    assert path == str(root / "c0/3.png") and "truncated" in why
    assert any("left out 1 unreadable image" in text for text in splits.notices)
    assert (root / "c0/3.png").read_bytes() == left, "the user's file is theirs"


def test_too_many_unreadable_images_are_an_error(make_images) -> None:
    root = make_images({f"c{i}": 4 for i in range(8)}, size=40)
    for i in range(2):
        truncate(root / f"c0/{i}.png")
    with pytest.raises(DataError, match=r"(?s)2 of 32 .*allowed: 5% of them \(data\.max_skipped\)"):
        load(root, on_unreadable="skip")
    assert len(load(root, on_unreadable="skip", max_skipped=0.1).skipped) == 2


def test_images_of_too_many_pixels_are_refused_or_left_out(make_images) -> None:
    root = make_images({f"c{i}": 6 for i in range(8)}, size=40)
    Image.new("RGB", (41, 40)).save(root / "c0/3.png")
    with pytest.raises(DataError, match=r"c0/3\.png: the image has too many pixels: 1,640"):
        load(root, max_pixels=1600)
    assert len(load(root, max_pixels=1600, on_unreadable="skip").skipped) == 1
    assert load(root, max_pixels=1640).skipped == ()


def test_pairs_with_an_unreadable_image_go_with_it(people: Path) -> None:
    (people / "c0/1.png").write_bytes(b"")
    path = table(people / "p.csv", "a,b,same", pair_rows())
    splits = load(path, on_unreadable="skip", max_skipped=0.5)
    assert len(splits.train.tuples) + len(splits.val.tuples) == 23


def test_files_that_cannot_be_used_are_told_with_their_rows(people: Path) -> None:
    import os

    (people / "c1/2.png").unlink()
    os.mkfifo(people / "c1/2.png")
    path = table(people / "m.csv", "path,label", rows_of(people))
    with pytest.raises(DataError, match=r"row 8: c1/2\.png: not a regular file"):
        load(path)
    path = table(people / "p.csv", "a,b,same", [*pair_rows(), ("c0/0.png", "c1/2.png", 0)])
    with pytest.raises(DataError, match=r"row \d+: c1/2\.png: not a regular file"):
        load(path)


def test_images_in_a_folder_that_cannot_be_entered_are_told_by_row(
    nobody: Nobody, people: Path
) -> None:
    listed = table(people / "m.csv", "path,label", rows_of(people)[:4])
    (people / "c0").chmod(0o700)
    with nobody(), pytest.raises(DataError, match=r"row 2: .*Permission denied"):
        load(listed)


def test_a_wrong_root_is_told_with_the_right_one(people: Path, tmp_path: Path) -> None:
    listed = table(tmp_path / "m.csv", "path,label", rows_of(people))
    below = rf"the paths exist below {people}: use data={{'root': '{people}'}}"
    with pytest.raises(DataError, match=below):
        load(listed)
    inner = table(people / "c0/m.csv", "path,label", rows_of(people))
    with pytest.raises(DataError, match=below):
        load(inner)
    nowhere = table(people / "n.csv", "path,label", [(f"x/{p}", c) for p, c in rows_of(people)])
    with pytest.raises(DataError, match=rf"paths are relative to {people}; data={{'root': DIR}}"):
        load(nowhere)
    assert len(load(listed, root=people).train) == 16
    few = table(people / "f.csv", "path,label", [*rows_of(people), ("gone.png", "c0")])
    with pytest.raises(
        DataError, match=r"row 34: gone\.png: no such file(.|\n)*; repair or remove"
    ):
        load(few)


def boxes(people: Path, bad: int) -> Path:
    """Return a table of two boxes in each file, of which the first ``bad`` end beyond it."""
    rows = [(path, label, left, 0, 13 if 2 * i + left // 6 < bad else left + 6, 12)
            for i, (path, label) in enumerate(rows_of(people)) for left in (0, 6)]  # fmt: skip
    return table(people / "boxes.csv", "path,label,x1,y1,x2,y2", rows)


@pytest.mark.parametrize("how", ["skip", "quarantine"])
def test_a_box_beyond_its_image_leaves_the_other_boxes_of_the_file(people: Path, how: str) -> None:
    path = boxes(people, 1)
    images = 2 * len(rows_of(people))
    splits = load(path, on_unreadable=how)
    left = keys(splits.train) | keys(splits.val)
    first = rows_of(people)[0][0]
    assert len(left) == images - 1
    assert f"{first}#6,0,12,12" in left and f"{first}#0,0,13,12" not in left
    [(skipped, why)] = splits.skipped
    assert skipped == str(people / first) and why.startswith("row 2: its box ends at 13,12")


def test_boxes_beyond_their_images_are_counted_and_told_with_their_own_rows(people: Path) -> None:
    path = boxes(people, 4)
    images = 2 * len(rows_of(people))
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert f"4 of {images} images cannot be used" in message
    for row in (2, 3, 4, 5):
        assert f"\n  row {row}: " in message
    assert "row 6" not in message


def test_a_file_whose_boxes_are_all_beyond_it_has_no_facts(people: Path) -> None:
    config = DataConfig(path=str(boxes(people, 2)), on_unreadable="skip", max_skipped=0.5)
    found = usable(open_source(config.path), config)
    assert people / rows_of(people)[0][0] not in found.facts
    assert set(found.facts) == {path for path, _ in found.source.images()}
    assert len(found.skipped) == 2


def test_the_boxes_of_an_unreadable_file_are_all_left_out(people: Path) -> None:
    path = boxes(people, 0)
    (people / rows_of(people)[0][0]).write_bytes(b"")
    splits = load(path, on_unreadable="skip")
    assert [why for _, why in splits.skipped] == [
        "row 2: the file is empty",
        "row 3: the file is empty",
    ]
