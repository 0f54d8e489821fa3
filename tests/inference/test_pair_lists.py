from __future__ import annotations

from pathlib import Path

import pytest
import torch

from siamkit import api
from siamkit.errors import DataError
from siamkit.inference.embedder import Embedder
from siamkit.inference.pair_lists import read_pairs, scored


@pytest.fixture
def folder(tmp_path: Path, image_folder: Path) -> Path:
    for name in ("x.png", "y.png", "z.png"):
        (tmp_path / name).write_bytes(
            (image_folder / f"class{ord(name[0]) % 8}/0.png").read_bytes()
        )
    return tmp_path


def listing(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_each_image_is_there_once(folder):
    found = read_pairs(listing(folder, "a,b,same\nx.png,y.png,1\ny.png,z.png,0\nx.png,z.png,no\n"))
    assert found.names == ("x.png", "y.png", "z.png") and len(found) == 3
    assert found.first.tolist() == [0, 1, 0] and found.second.tolist() == [1, 2, 2]
    assert found.same.tolist() == [True, False, False]
    assert [path.name for path in found.paths] == list(found.names)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\r\nx.png,y.png\r\n",
        "B , A ,note\ny.png,x.png,hello\n",
        'a,b\n"x.png"," y.png "\n\n',
    ],
)
def test_spreadsheets_write_it_in_many_ways(folder, text):
    found = read_pairs(listing(folder, text))
    assert (found.names[found.first[0]], found.names[found.second[0]]) == ("x.png", "y.png")
    assert found.same is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,c\n", r"no column 'b', got 'a,c', allowed: a,b\[,same\]"),
        ("a,b,a\n", "columns of the same name, got 'a'"),
        ("a,b\n", "holds no pairs"),
        ("a,b\n\udcff,x.png\n", "row 2: not UTF-8"),
        ('a,b\n"x.png,y.png\n', "cannot be read"),
        ("a,b\nx.png,none.png\n", r"row 2: none\.png: no such file"),
        ("a,b\nx.png,y.png\nx.png\n", "row 3: 1 cells, the header has 2"),
        ("a,b\nx.png,\n", "row 2: b is empty"),
        ("a,b\n../x.png,y.png\n", r"row 2: a leads out of the folder: \.\./x\.png"),
        ("a,b\n/etc/passwd,y.png\n", "row 2: a is absolute"),
        ("a,b\nout.png,y.png\n", "a is a link out of the folder"),
        ("a,b\nsub,y.png\n", "not a regular file"),
        ("a,b\nx\0.png,y.png\n", "NUL"),
        ("a,b,same\nx.png,y.png,maybe\n", "same must be 1 or 0, got 'maybe'"),
        ("a,b\nx.png,y.png\nx.png,list.csv\n", r"row 3: list\.csv: not an image"),
    ],
)
def test_what_cannot_be_used_is_told_by_row(folder, text, message):
    (folder / "sub").mkdir()
    (folder / "out.png").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=message):
        read_pairs(listing(folder, text))


def test_all_rows_are_told_up_to_a_limit(folder):
    rows = "".join(f"gone{i}.png,x.png\n" for i in range(25))
    with pytest.raises(DataError, match=r"25 problems(.|\n)*row 11(.|\n)*and 15 more"):
        read_pairs(listing(folder, f"a,b\n{rows}"))
    with pytest.raises(DataError, match="not a regular file"):
        read_pairs(folder / "none.csv")


def test_scores_are_the_similarities_and_no_image_is_embedded_twice(folder, monkeypatch):
    torch.manual_seed(0)
    net = api.create_model("timm:test_resnet", pretrained=False, head="linear", image_size=32)
    embedder = Embedder(net, kernel="eager")
    pairs = read_pairs(listing(folder, "a,b\nx.png,y.png\ny.png,z.png\nz.png,z.png\nz.png,x.png\n"))
    expected = embedder.similarity(list(pairs.paths), list(pairs.paths)).numpy()
    seen = []
    stream = Embedder.stream
    monkeypatch.setattr(Embedder, "stream", lambda self, p: seen.extend(p) or stream(self, p))
    found = scored(embedder, pairs)
    assert found == pytest.approx(expected[pairs.first, pairs.second], abs=1e-6)
    assert [path.name for path in seen] == ["x.png", "y.png", "z.png"]
