from pathlib import Path

import pytest

from siamkit.portable.cells import Cells


@pytest.mark.parametrize("cell, problem", [
    ("", "is empty"), ("../x.png", "leads out of the folder"), ("a/../../x", "leads out"),
    ("/etc/passwd", "must be a relative path"), ("C:\\x.png", "must be a relative path"),
    ("a\0b", "NUL"),
    ("https://example.org/x.png", "is a URL"), ("s3://bucket/x.png", "is a URL"),
    ("a\\b.png", "has backslashes, write a/b.png instead of a\\b.png"),
    ("out/x.png", "a link out of the folder"), ("loop/x.png", "cannot be followed"),
])  # fmt: skip
def test_paths_stay_under_the_root(tmp_path: Path, cell: str, problem: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    cells = Cells(root)
    if cell.startswith("loop"):  # newer Pythons resolve it to itself
        assert cells.path(7, cell) in (None, cell)
        return
    assert cells.path(7, cell) is None
    assert len(cells.problems) == 1
    assert cells.problems[0].startswith("row 7: path ") and problem in cells.problems[0]


def test_a_folder_may_have_the_name_of_a_drive(tmp_path: Path) -> None:
    (tmp_path / "x:y").mkdir()
    (tmp_path / "x:y/1.png").touch()
    cells = Cells(tmp_path)
    assert cells.path(2, "x:y/1.png") == "x:y/1.png"
    assert cells.path(3, "x:/1.png") is None and "must be a relative path" in cells.problems[0]


def test_a_backslash_in_the_name_of_a_file_is_no_separator(tmp_path: Path) -> None:
    (tmp_path / "a\\b.png").touch()
    assert Cells(tmp_path).path(2, "a\\b.png") == "a\\b.png"


def test_a_path_has_one_spelling(tmp_path: Path) -> None:
    assert Cells(tmp_path).path(2, "./a//b.png") == "a/b.png"


@pytest.mark.parametrize("cells, box", [
    (["1", "2", "3.5", "4"], (1, 2, 3.5, 4)), ([""] * 4, None), (["1", "2", "3", ""], "numbers"),
    (["3", "2", "3", "4"], "must be"), (["-1", "2", "3", "4"], "must be"),
    (["0", "0", "0.5", "0.5"], (0, 0, 0.5, 0.5)), (["1", "-0.5", "3", "4"], "must be"),
    (["1", "4", "3", "4"], "must be"), (["0", "0", "3", "inf"], "must be"),
    (["0", "0", "inf", "4"], "must be"), (["0", "0", "nan", "4"], "must be"),
])  # fmt: skip
def test_boxes(tmp_path: Path, cells: list[str], box: object) -> None:
    reader = Cells(tmp_path)
    found = reader.box(3, cells)
    if isinstance(box, str):
        assert found is None and box in reader.problems[0]
    else:
        assert found == box and not reader.problems


def test_flags(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    assert [cells.flag(2, word, "same") for word in ("1", "TRUE", "yes", "0", "False", "no")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert cells.flag(9, "maybe", "same") is None
    assert cells.problems == ["row 9: same must be 1 or 0, got 'maybe'"]


def test_a_word_is_a_text_that_is_not_empty(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    assert (cells.word(2, "cat", "label"), cells.problems) == ("cat", [])
    assert cells.word(3, "", "label") is None
    assert cells.problems == ["row 3: label is empty"]


def test_a_flag_is_a_word_for_true_or_false(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    assert [cells.flag(2, cell, "same") for cell in ("1", "0", "True", "FALSE")] == [
        True, False, True, False
    ]  # fmt: skip
    assert cells.problems == []
    assert cells.flag(4, "maybe", "same") is None
    assert cells.problems == ["row 4: same must be 1 or 0, got 'maybe'"]
