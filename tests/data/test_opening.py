"""Opening data: the kinds of sources, and what is refused."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from people import load, pair_rows, rows_of, table
from PIL import Image

from siamkit.config import DataConfig
from siamkit.data.opening import names_tuples, open_source
from siamkit.errors import DataError

Nobody = Callable[[], AbstractContextManager[None]]


def test_all_bad_rows_are_told_at_once_and_capped(people: Path) -> None:
    rows = [(f"/{i}.png", "a") for i in range(20)]
    with pytest.raises(DataError) as caught:
        load(table(people / "m.csv", "path,label", rows))
    message = str(caught.value)
    assert message.startswith(f"{people / 'm.csv'}: 20 problems:")
    assert "\n  row 2: path must be a relative path: /0.png" in message
    assert message.endswith("... and 10 more")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_box_must_lie_within_the_upright_image(people: Path, ending: str) -> None:
    upright = Image.new("RGB", (10, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(people / f"turned.{ending}", exif=exif)
    rows = [(*row, "", "", "", "") for row in rows_of(people)]
    good = [*rows, (f"turned.{ending}", "c0", 0, 0, 10, 30)]
    load(table(people / "m.csv", "path,label,x1,y1,x2,y2", good))
    bad = [*rows, (f"turned.{ending}", "c0", 0, 0, 30, 10)]
    with pytest.raises(
        DataError, match=rf"turned.{ending}: its box ends at 30,10, but the image ends at 10,30"
    ):
        load(table(people / "m.csv", "path,label,x1,y1,x2,y2", bad))


def test_a_table_without_rows_is_refused(people: Path) -> None:
    for header in ("path,label", "a,b,same", "anchor,positive,negative"):
        with pytest.raises(DataError, match="a header but no rows"):
            load(table(people / "m.csv", header, []))


def test_an_unknown_header_shows_those_that_are_known(people: Path) -> None:
    with pytest.raises(DataError, match=r"x,y.*path,label.*a,b,same.*anchor,positive,negative"):
        load(table(people / "m.csv", "x,y", [(1, 2)]))


def test_pairs_with_a_wrong_header_are_told_as_pairs(people: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'same'.*allowed: a,b,same\[,split,group\]"):
        load(table(people / "m.csv", "a,b,match", [(1, 2, 3)]))


@pytest.mark.parametrize("name", ["locked", "locked/inner", "locked/t.csv", "locked/none"])
def test_data_in_a_folder_that_cannot_be_entered_is_refused(
    nobody: Nobody, tmp_path: Path, name: str
) -> None:
    (tmp_path / "locked" / "inner").mkdir(parents=True)
    (tmp_path / "locked" / "t.csv").write_text("path,label\n")
    (tmp_path / "locked").chmod(0o700)
    told = f"{tmp_path / name}: cannot read the folder: Permission denied"
    with nobody(), pytest.raises(DataError, match=re.escape(told)):
        open_source(str(tmp_path / name))


def test_a_root_that_cannot_be_entered_is_refused(
    nobody: Nobody, people: Path, tmp_path: Path
) -> None:
    listed = table(tmp_path / "m.csv", "path,label", rows_of(people))
    (tmp_path / "locked" / "inner").mkdir(parents=True)
    (tmp_path / "locked").chmod(0o700)
    with (
        nobody(),
        pytest.raises(DataError, match=r"data\.root: cannot read the folder: Permission"),
    ):
        open_source(str(listed), tmp_path / "locked" / "inner")
    with pytest.raises(DataError, match=r"data\.root: no such folder, got '.*/m\.csv'"):
        open_source(str(listed), listed)


def test_split_folders_beside_other_folders_are_refused(make_images: Callable[..., Path]) -> None:
    folder = make_images({"train/a": 2, "val/a": 2, "more/a": 1})
    with pytest.raises(DataError, match="has train/ beside val/ or test/, but also images"):
        load(folder)


def test_a_source_is_named_for_what_it_is(people: Path) -> None:
    rows = [(f"c{i}/0.png", f"c{i}/1.png", f"c{i}/2.png") for i in range(8)]
    kinds = {
        people: "class folders",
        table(people / "m.csv", "path,label", rows_of(people)): "manifest",
        table(people / "p.csv", "a,b,same", pair_rows()): "pairs",
        table(people / "t.csv", "anchor,positive,negative", rows): "triplets",
    }
    assert {path: open_source(str(path)).kind for path in kinds} == kinds


@pytest.mark.parametrize(
    ("name", "header", "known"),
    [
        ("pairs.csv", "a,b,same", True),
        ("triplets.csv", "anchor,positive,negative", True),
        ("images.csv", "path,label", False),
        ("other.csv", "file,kind", False),
    ],
)
def test_a_table_of_pairs_or_triplets_is_known_by_its_header(tmp_path, name, header, known):
    # The images are not there.
    path = table(tmp_path / name, header, [("a.png", "b.png", "c.png")[: header.count(",") + 1]])
    assert names_tuples(DataConfig(path=str(path))) is known


def test_other_data_is_no_table_of_pairs(tmp_path):
    (tmp_path / "pairs.txt").write_text("1\n")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "image.png").write_bytes(b"")
    assert names_tuples(DataConfig(path=str(tmp_path / "pairs.txt")))
    for path in ("sample", tmp_path, tmp_path / "missing.csv", tmp_path / "broken.csv",
                 tmp_path / "image.png"):  # fmt: skip
        assert not names_tuples(DataConfig(path=str(path)))
