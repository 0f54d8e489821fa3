import csv
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.errors import ConfigError, DataError
from siamkit.portable.tables import read_table, require_columns


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
        "row 4: not UTF-8, or holds U+FFFD, which stands for a character that was lost",
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
        (2, {"path": "a.png", "label": "3", "x1": "1.0"}),
        (3, {"path": "b.png", "label": "", "x1": "2.5"}),
    )
    odd = pa.array([2**58, 0], pa.timestamp("ms"))
    pq.write_table(pa.table({**columns, "until": odd}), tmp_path / "odd.parquet")
    for (_, row), (_, expected) in zip(
        read_table(tmp_path / "odd.parquet").rows, table.rows, strict=True
    ):
        assert row == {**expected, "until": ""}, "other columns are not read"
    pq.write_table(pa.table({"path": odd, "label": odd}), tmp_path / "worse.parquet")
    with pytest.raises(DataError, match=r"worse\.parquet: cannot read the table"):
        read_table(tmp_path / "worse.parquet")
    write(tmp_path / "bad.parquet", b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot read the table"):
        read_table(tmp_path / "bad.parquet")


def test_a_column_of_lists_or_records_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    paths, lists, records = ["a.png", "b.png"], [["x"], ["x", "y"]], [{"path": "a.png"}] * 2
    for name, columns, names in (
        ("label", {"path": paths, "label": lists}, {}),
        ("path", {"path": records, "label": ["x", "y"]}, {}),
        ("image", {"image": records, "label": ["x", "y"]}, {"path": "image"}),
    ):
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=f"the column '{name}' holds lists or records"):
            read_table(tmp_path / "t.parquet", names)
    pairs = {"a": paths, "b": paths[::-1], "same": [1, 0], "label": lists}
    pq.write_table(pa.table(pairs), tmp_path / "t.parquet")
    assert len(read_table(tmp_path / "t.parquet").rows) == 2  # pairs have no labels


def test_parquet_without_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"t\.parquet: Parquet files need pyarrow; pip install"):
        read_table(write(tmp_path / "t.parquet", b""))


words = st.text('ab. \t,"é1', max_size=4)
columns = st.one_of(
    *(
        st.lists(st.none() | kind, min_size=3, max_size=3)
        for kind in (
            words, st.integers(-5, 5), st.floats(-3, 3).map(lambda x: round(2 * x) / 2),
            st.integers(0, 3).map(float), st.booleans(), st.floats(allow_nan=False),
        )
    )
)  # fmt: skip


@settings(max_examples=60)
@given(columns, columns)
def test_the_same_rows_are_the_same_table_in_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, label: list, same: list
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("t")
    values = {"path": ["x.png", "y.png", "1.0"], "label": label, "same": same}
    pq.write_table(pa.table(values), folder / "t.parquet")
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(values)
        writer.writerows(zip(*values.values(), strict=True))
    tables = [read_table(folder / name) for name in ("t.csv", "t.parquet")]
    assert tables[0].rows == tables[1].rows


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_whole_numbers_have_one_spelling_and_other_words_keep_theirs(
    tmp_path: Path, ending: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values = {
        "path": ["1.0", "2.0", "3.0"], "same": ["1.0", "0", ""], "label": ["1.0", "1", "-2.00"],
        "group": ["1.0", "1.1", "2.0"],
    }  # fmt: skip
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        rows = zip(*values.values(), strict=True)
        path.write_text("\n".join([",".join(values), *map(",".join, rows)]))
    else:
        pq.write_table(pa.table(values), path)
    rows = [row for _, row in read_table(path).rows]
    assert [row["same"] for row in rows] == ["1", "0", ""]
    assert [row["label"] for row in rows] == ["1", "1", "-2"]
    assert [row["group"] for row in rows] == values["group"]
    assert [row["path"] for row in rows] == values["path"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_table_that_is_not_there_is_told_as_such(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / f"t.{ending}"
    with pytest.raises(DataError, match="no such file"):
        read_table(path)
    path.symlink_to("nowhere")
    with pytest.raises(DataError, match="a symbolic link to nothing"):
        read_table(path)


def test_other_names_of_columns_are_read_as_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "Image File,path,person\na.png,7,x\n")
    table = read_table(path, {"path": " image file", "label": "Person"})
    assert table.columns == ("path", "path (not used)", "label")
    [(_, row)] = table.rows
    assert (row["path"], row["label"]) == ("a.png", "x")
    assert require_columns(table, ("path", "label"), ()) == ["path (not used)"]
    told = r"no column 'persom', got 'image file,path,person'; did you mean 'person'"
    with pytest.raises(DataError, match=told):
        read_table(path, {"label": "persom"})
    with pytest.raises(
        DataError, match=r"no column 'z', .*correct data=\{'label_column': \.\.\.\}"
    ):
        read_table(path, {"label": "z"})


def test_other_names_are_read_from_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"File": ["a.png"], "who": ["x"], "n": [1]}), tmp_path / "t.parquet")
    [(_, row)] = read_table(tmp_path / "t.parquet", {"path": "file", "label": "who"}).rows
    assert row == {"path": "a.png", "label": "x", "n": ""}


def test_a_missing_column_is_named_with_its_nearest(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "paths,label\n"))
    with pytest.raises(DataError) as caught:
        require_columns(table, ("path", "label"), ("group",))
    assert "no column 'path', got 'paths,label', allowed: path,label[,group]" in str(caught.value)
    assert "did you mean 'paths'" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("path", "data={'path_column': NAME} takes another column"),
        ("label", "data={'label_column': NAME} takes another column"),
        ("same", None),
        ("a", None),
    ],
)
def test_paths_and_labels_may_be_in_other_columns(
    tmp_path: Path, column: str, hint: str | None
) -> None:
    table = read_table(write(tmp_path / "t.csv", "1,2\n"))
    with pytest.raises(DataError) as caught:
        require_columns(table, (column,), ())
    assert caught.value.hint == hint
