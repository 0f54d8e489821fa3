from pathlib import Path

import pytest

from siamkit.data.images import Sample
from siamkit.data.manifest import Record, image_set, read_manifest
from siamkit.errors import DataError
from siamkit.portable.cells import Cells
from siamkit.portable.tables import read_table


def read(tmp_path: Path, text: str) -> tuple[tuple[Record, ...], tuple[str, ...], list[str]]:
    (tmp_path / "t.csv").write_text(text)
    cells = Cells(tmp_path)
    records, notices = read_manifest(read_table(tmp_path / "t.csv"), cells)
    return records, notices, cells.problems


def test_a_row_says_all_there_is_to_know_of_an_image(tmp_path: Path) -> None:
    records, notices, problems = read(
        tmp_path,
        "path,label,split,group,is_query,is_gallery,x1,y1,x2,y2,colour\n"
        "a.png,cat,Valid,p1,1,0,1,2,3,4,red\n"
        "a.png,dog,test,p1,0,1,,,,,\n",
    )
    assert problems == []
    assert notices == ("ignored columns: colour",)
    assert records[0] == Record(2, "a.png", "cat", "val", "p1", True, False, (1, 2, 3, 4))
    assert records[1] == Record(3, "a.png", "dog", "test", "p1", False, True, None)
    assert [record.key for record in records] == ["a.png#1,2,3,4", "a.png"]


def test_every_bad_row_is_told(tmp_path: Path) -> None:
    _, _, problems = read(
        tmp_path,
        "path,label,split,group\n/x.png,a,train,g\nb.png,,train,g\nc.png,a,dev,g\nd.png,a,test,\n"
        "e.png,a,test,g\ne.png,b,test,g\n",
    )
    assert problems == [
        "row 2: path must be a relative path: /x.png",
        "row 3: label is empty",
        "row 4: split must be train, val or test, got 'dev'",
        "row 5: group is empty",
        "row 7: repeats the image of row 6: e.png",
    ]


def test_a_box_needs_all_its_columns(tmp_path: Path) -> None:
    _, _, problems = read(tmp_path, "path,label,x1,y1\na.png,a,1,2\n")
    assert problems == ["the header must have all of x1,y1,x2,y2 or none of them"]


def test_a_label_is_required(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'label'.*did you mean 'labels'"):
        read(tmp_path, "path,labels\n")


def test_images_are_sorted_and_keep_their_roles(tmp_path: Path) -> None:
    records = [
        Record(2, "z.png", "b", query=True, gallery=False),
        Record(3, "y.png", "a", query=False, gallery=True, box=(0, 0, 1, 1)),
        Record(4, "x.png", "b", query=True, gallery=True),
    ]
    images = image_set(tmp_path, records)
    assert images.samples == (
        Sample(tmp_path / "y.png", 0, "y.png#0,0,1,1", (0, 0, 1, 1)),
        Sample(tmp_path / "x.png", 1, "x.png"),
        Sample(tmp_path / "z.png", 1, "z.png"),
    )
    assert images.classes == ("a", "b")
    assert (images.query, images.gallery) == ((False, True, True), (True, True, False))
    assert image_set(tmp_path, [Record(2, "a", "a")]).query is None
