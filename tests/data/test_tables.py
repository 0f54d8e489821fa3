from pathlib import Path

import pytest

from siamkit.data.tables import Cells, read_table, require_columns
from siamkit.errors import DataError


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("text", [
    b"path,label\na.png,x\n", b"\xef\xbb\xbfpath,label\r\na.png,x\r\n", b"path;label\na.png;x\n",
    b"path\tlabel\na.png\tx", b" path , label \n a.png , x \n\n,\n", b'"path","label"\n"a.png","x"',
])  # fmt: skip
def test_however_a_csv_is_spelled_it_reads_the_same(tmp_path: Path, text: bytes) -> None:
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.columns == ("path", "label")
    assert table.rows == ((2, {"path": "a.png", "label": "x"}),)
    assert table.problems == ()


def test_a_spreadsheets_trailing_commas_are_no_columns(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "path,label,,\na,b,,\n"))
    assert require_columns(table, ("path", "label"), ()) == []


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", 'a,b\n"x\ny",1\n\nz,2\n'))
    assert [(number, row["a"]) for number, row in table.rows] == [(2, "x\ny"), (4, "z")]


def test_rows_that_cannot_be_read_are_told_by_number(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", b"a,b\n1\n1,2,3\n\xff,2\nx,y\n"))
    assert table.problems == (
        "row 2: 1 cell, but the header has 2", "row 3: 3 cells, but the header has 2",
        "row 4: not UTF-8",
    )  # fmt: skip
    assert [number for number, _ in table.rows] == [5]


@pytest.mark.parametrize("data, message", [
    (b"", "the file is empty"), (b"\n\n", "the file is empty"),
    (b"a,b,a\n1,2,3\n", "several columns of the same name, got 'a'"),
    ("a,b\n".encode("utf-16"), "the table is UTF-16"),
    (b'a,b\n"1,2\n', "line 2 cannot be read.*quotation mark"),
])  # fmt: skip
def test_files_that_are_no_table_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "t.csv", data))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match="not a regular file"):
        read_table(tmp_path / "t.csv")


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"path": ["a.png", "b.png"], "label": [3, None], "x1": [1.0, 2.5]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.rows == (
        (2, {"path": "a.png", "label": "3", "x1": "1"}),
        (3, {"path": "b.png", "label": "", "x1": "2.5"}),
    )
    odd = pa.array([2**58, 0], pa.timestamp("ms"))
    pq.write_table(pa.table({**columns, "until": odd}), tmp_path / "odd.parquet")
    assert read_table(tmp_path / "odd.parquet").rows == table.rows, "other columns are not read"
    pq.write_table(pa.table({"path": odd, "label": odd}), tmp_path / "worse.parquet")
    with pytest.raises(DataError, match=r"worse\.parquet: cannot read the table"):
        read_table(tmp_path / "worse.parquet")
    write(tmp_path / "bad.parquet", b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot read the table"):
        read_table(tmp_path / "bad.parquet")


def test_a_missing_column_is_named_with_its_nearest(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "paths,label\n"))
    with pytest.raises(DataError) as caught:
        require_columns(table, ("path", "label"), ("group",))
    assert "no column 'path', got 'paths,label', allowed: path,label[,group]" in str(caught.value)
    assert "did you mean 'paths'" in str(caught.value)


@pytest.mark.parametrize("cell, problem", [
    ("", "is empty"), ("../x.png", "leads out of the folder"), ("a/../../x", "leads out"),
    ("/etc/passwd", "must be a relative path"), ("C:\\x.png", "must be a relative path"),
    ("a\0b", "NUL"),
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


def test_a_path_has_one_spelling(tmp_path: Path) -> None:
    assert Cells(tmp_path).path(2, "./a//b.png") == "a/b.png"


@pytest.mark.parametrize("cells, box", [
    (["1", "2", "3.5", "4"], (1, 2, 3.5, 4)), ([""] * 4, None), (["1", "2", "3", ""], "numbers"),
    (["3", "2", "3", "4"], "must be"), (["-1", "2", "3", "4"], "must be"),
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
