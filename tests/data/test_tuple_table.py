from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.data.images import Tuples
from siamkit.data.tuple_table import TupleTable, connected, read_lfw, read_tuples
from siamkit.errors import DataError
from siamkit.portable.cells import Cells
from siamkit.portable.tables import read_table


def read(tmp_path: Path, text: str) -> tuple[TupleTable, tuple[str, ...], list[str]]:
    (tmp_path / "t.csv").write_text(text)
    cells = Cells(tmp_path)
    known, notices = read_tuples(read_table(tmp_path / "t.csv"), cells)
    return known, notices, cells.problems


def test_pairs_become_images_and_indices(tmp_path: Path) -> None:
    known, notices, problems = read(tmp_path, "a,b,same\nz.png,a.png,1\nz.png,m.png,0\n")
    assert (notices, problems) == ((), [])
    images = known.images(tmp_path)
    assert [sample.key for sample in images.samples] == ["a.png", "z.png", "m.png"]
    assert images.classes == ("a.png", "m.png")
    assert images.labels == [0, 0, 1]
    assert images.tuples == Tuples(((1, 0), (1, 2)), (True, False))


def test_triplets_become_images_and_indices(tmp_path: Path) -> None:
    known, _, _ = read(tmp_path, "anchor,positive,negative\na.png,b.png,c.png\n")
    images = known.images(tmp_path)
    assert images.labels == [0, 0, 1]
    assert images.tuples == Tuples(((0, 1, 2),))
    assert images.tuples.pairs() == Tuples(((0, 1), (0, 2)), (True, False))


def test_every_bad_row_is_told(tmp_path: Path) -> None:
    known, notices, problems = read(
        tmp_path,
        "a,b,same,split\n../x,b,1,train\na,a,1,train\na,b,2,train\nc,d,1,train\nd,c,0,train\n"
        "c,d,1,test\ne,f,1,nowhere\n",
    )
    assert problems == [
        "row 2: a leads out of the folder: ../x",
        "row 3: an image is compared with itself: a",
        "row 4: same must be 1 or 0, got '2'",
        "row 6: contradicts row 5: same is 0",
        "row 8: split must be train, val or test, got 'nowhere'",
    ]
    assert notices == ("left out 1 repeated row",)
    assert known.rows[0] == ("c", "d")


def test_the_image_that_a_triplet_holds_twice_is_named(tmp_path: Path) -> None:
    _, _, problems = read(tmp_path, "anchor,positive,negative\na,b,b\na,b,a\nc,c,d\nx,y,z\n")
    assert problems == [
        f"row {row}: an image is compared with itself: {name}"
        for row, name in ((2, "b"), (3, "a"), (4, "c"))
    ]


def test_a_different_pair_that_same_pairs_connect_is_told(tmp_path: Path) -> None:
    _, notices, problems = read(tmp_path, "a,b,same\nx,y,1\ny,z,1\nx,z,0\n")
    assert problems == []
    assert "chains of same pairs connect the images of 1 different pair" in notices[0]
    assert "x and z" in notices[0]
    _, notices, _ = read(tmp_path, "anchor,positive,negative\nx,y,z\ny,z,w\n")
    assert "1 different pair," in notices[0] and "x and z" in notices[0]


paths = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(paths, paths), max_size=12))
def test_connected_agrees_with_walking_the_graph(edges: list[tuple[str, str]]) -> None:
    found = connected("abcdefgh", edges)
    for start in "abcdefgh":
        reached, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for pair in edges:
                for one, other in (pair, pair[::-1]):
                    if one == here and other not in reached:
                        reached.add(other)
                        todo.append(other)
        assert found[start] == min(reached)


def test_a_long_chain_does_not_recurse() -> None:
    names = [f"{i:05d}" for i in range(20_000)]
    assert set(connected(names, pairwise(names)).values()) == {"00000"}


LFW = "2\t1\nAnn\t1\t4\nBob\t1\tCyd\t10\nAnn\t1\t2\nDee\t3\tEve\t1\n"


def test_lfw_pairs_have_names_and_folds(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(LFW)
    cells = Cells(tmp_path)
    known = read_lfw(tmp_path / "pairs.txt", cells)
    assert cells.problems == []
    assert known.rows[:2] == (
        ("Ann/Ann_0001.jpg", "Ann/Ann_0004.jpg"), ("Bob/Bob_0001.jpg", "Cyd/Cyd_0010.jpg"),
    )  # fmt: skip
    assert known.same == (True, False, True, False)
    assert known.folds == (0, 0, 1, 1)
    assert known.images(tmp_path).classes == ("Ann", "Bob", "Cyd", "Dee", "Eve")


def test_lfw_pairs_of_one_image_are_told(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nAnn\t1\t1\nBob\t1\tCyd\t10\n")
    cells = Cells(tmp_path)
    read_lfw(tmp_path / "pairs.txt", cells)
    assert cells.problems == ["row 2: an image is compared with itself: Ann/Ann_0001.jpg"]


def test_lfw_development_files_have_no_folds(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nAnn\t1\t4\nBob\t1\tCyd\t10\n")
    assert read_lfw(tmp_path / "pairs.txt", Cells(tmp_path)).folds is None


def test_lfw_problems_are_told_by_row(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\t2\nAnn\t1\t4\nAnn\tx\t2\nBob\t1\tCyd\n")
    cells = Cells(tmp_path)
    read_lfw(tmp_path / "pairs.txt", cells)
    assert cells.problems == [
        "the first line announces 4 pairs, but there are 3",
        "row 3: must have an image number, got 'x'",
        "row 4: must have 4 words, got 3",
    ]


def test_each_kind_of_lfw_line_has_its_number_of_words(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nAnn\t1\nBob\t1\tCyd\t10\tEve\n")
    cells = Cells(tmp_path)
    assert read_lfw(tmp_path / "pairs.txt", cells).rows == ()
    assert cells.problems == ["row 2: must have 3 words, got 2", "row 3: must have 4 words, got 5"]


def test_numbers_of_lfw_images_have_up_to_nine_digits(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nAnn\t123456789\t5\nBob\t1234567890\tCyd\t1\n")
    cells = Cells(tmp_path)
    known = read_lfw(tmp_path / "pairs.txt", cells)
    assert known.rows == (("Ann/Ann_123456789.jpg", "Ann/Ann_0005.jpg"),)
    assert cells.problems == ["row 3: must have an image number, got '1234567890'"]


@pytest.mark.parametrize("text", ["", "1 0\n", "hello\n", "1 2 3\n", "0 3\n"])
def test_another_text_file_is_no_lfw_pairs(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=r"is not a file of LFW pairs.*a,b,same"):
        read_lfw(tmp_path / "pairs.txt", Cells(tmp_path))
