"""CSV rows that every reader reads back."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.portable.csv_rows import RowWriter

TEXT = st.text(st.sampled_from("a,;\"\r\n \t'"), max_size=6)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=4))
def test_rows_are_read_back_as_they_were_written(rows: list[list[str]]) -> None:
    stream = io.StringIO(newline="")
    RowWriter(stream).writerows(rows)
    stream.seek(0)
    assert list(csv.reader(stream, strict=True)) == rows


@pytest.mark.parametrize(("row", "line"), [(["a", 1.5], "a,1.5\n"), (["a\rb", 2], '"a\rb","2"\n')])
def test_only_what_needs_quotes_has_them(row: list[object], line: str) -> None:
    stream = io.StringIO(newline="")
    RowWriter(stream).writerow(row)
    assert stream.getvalue() == line
