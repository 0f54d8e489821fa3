from __future__ import annotations

from pathlib import Path

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.inference.embedder import Embedder
from siamkit.portable.pair_lists import pair_scores, read_pairs, verify_pairs


@pytest.fixture(scope="module", params=["run", "export"])
def embedder(request, exported_run):
    run, model = exported_run
    if request.param == "export":
        return siamkit.ExportedModel(model)
    return siamkit.load_embedder(run, device="cpu", workers=0)


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
    assert found.paths == ["x.png", "y.png", "z.png"]
    assert found.rows == (("x.png", "y.png"), ("y.png", "z.png"), ("x.png", "z.png"))
    assert found.same == (True, False, False)


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
    assert found.rows == (("x.png", "y.png"),)
    assert found.same is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,c\n", r"no column 'b', got 'a,c', allowed: a,b\[,same\]"),
        ("a,b,a\n", "columns of the same name, got 'a'"),
        ("a,b\n", "has no pairs"),
        ("a,b\n\udcff,x.png\n", "row 2: not UTF-8"),
        ('a,b\n"x.png,y.png\n', "cannot be read"),
        ("a,b\nx.png,none.png\n", r"row 2: none\.png: no such file"),
        ("a,b\nx.png,y.png\nx.png\n", "row 3: 1 cell, but the header has 2"),
        ("a,b\nx.png,\n", "row 2: b is empty"),
        ("a,b\n../x.png,y.png\n", r"row 2: a leads out of the folder: \.\./x\.png"),
        ("a,b\n/etc/passwd,y.png\n", "row 2: a must be a relative path"),
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


def test_what_makes_error_rates_doubtful_is_told(folder):
    rows = "x.png,y.png,1,u\ny.png,x.png,0,u\nx.png,z.png,0,u\nz.png,z.png,1,u\n"
    assert read_pairs(listing(folder, f"a,b,same,is_same\n{rows}")).notices == (
        "ignored columns: is_same",
        "1 pair is listed as same and as different, so one of the rows counts as an error: x.png "
        "and y.png",
        "1 pair compares an image with itself, which any network accepts",
    )
    good = "a,b,same\nx.png,y.png,1\ny.png,x.png,1\nx.png,z.png,0\n"
    assert read_pairs(listing(folder, good)).notices == ()
    assert read_pairs(listing(folder, "a,b\nx.png,x.png\n")).notices == ()


def test_all_rows_are_told_up_to_a_limit(folder):
    rows = "".join(f"gone{i}.png,x.png\n" for i in range(25))
    with pytest.raises(DataError, match=r"25 problems(.|\n)*row 11(.|\n)*and 15 more"):
        read_pairs(listing(folder, f"a,b\n{rows}"))
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_pairs(folder / "none.csv")


def test_rows_after_a_wrong_one_are_checked_too(folder):
    rows = "x.png,y.png,maybe\nx.png,z.png,1\nx.png,list.csv,1\n"
    with pytest.raises(DataError, match=r"2 problems(.|\n)*row 2(.|\n)*row 4: list\.csv"):
        read_pairs(listing(folder, f"a,b,same\n{rows}"))


def test_scores_are_the_similarities_and_no_image_is_embedded_twice(folder, monkeypatch):
    torch.manual_seed(0)
    net = api.create_model("timm:test_resnet", pretrained=False, head="linear", image_size=32)
    embedder = Embedder(net, kernel="eager")
    pairs = read_pairs(listing(folder, "a,b\nx.png,y.png\ny.png,z.png\nz.png,z.png\nz.png,x.png\n"))
    images = [folder / name for name in pairs.paths]
    expected = embedder.similarity(images, images).numpy()
    seen = []
    stream = Embedder.stream
    monkeypatch.setattr(Embedder, "stream", lambda self, p: seen.extend(p) or stream(self, p))
    found = pair_scores(embedder, pairs, folder)
    assert found == pytest.approx(expected[[0, 1, 2, 2], [1, 2, 2, 0]], abs=1e-6)
    assert [path.name for path in seen] == ["x.png", "y.png", "z.png"]


@pytest.mark.slow
def test_verdicts_are_those_of_single_pairs(embedder, folder):
    path = listing(folder, "a,b,same\nx.png,y.png,1\ny.png,y.png,0\nx.png,z.png,0\n")
    verdicts = verify_pairs(embedder, read_pairs(path), path)
    rows = list(verdicts.rows())
    assert len(rows) == len(verdicts) == 3
    for row in rows:
        one = embedder.verify(folder / row["a"], folder / row["b"])
        assert row["same"] == one.same
        assert row["score"] == pytest.approx(one.score, abs=1e-5)
        assert row["probability"] == pytest.approx(one.probability, abs=1e-3)
    summary = verdicts.summary()
    assert (summary["pairs"], summary["images"]) == (3, 3)
    assert summary["accepted"] == sum(row["same"] for row in rows)
    right = sum(row["same"] == row["expected"] for row in rows) / 3
    assert summary["errors"]["accuracy"] == pytest.approx(right)
    verdicts.save(folder / "out.csv")
    text = (folder / "out.csv").read_text().splitlines()
    assert text[0] == "a,b,expected,same,score,probability" and len(text) == 4
    with pytest.raises(ConfigError, match="the file already exists"):
        verdicts.save(folder / "out.csv")


def test_a_list_is_verified_from_python_by_a_run(exported_run, folder):
    trained = exported_run[0]
    path = listing(folder, "a,b\nx.png,x.png\n")
    found = siamkit.verify_pairs(trained, path, output=folder / "v.csv", device="cpu")
    assert [row["same"] for row in found.rows()] == [True]
    assert found.summary()["errors"] is None
    assert (folder / "v.csv").read_text().splitlines()[0] == "a,b,same,score,probability"
    bad = listing(folder, "a,b\nnone.png,x.png\n")
    with pytest.raises(DataError, match="row 2"):
        siamkit.verify_pairs(trained, bad, device="cpu")
    with pytest.raises(CheckpointError, match="is not a run directory"):
        siamkit.verify_pairs(folder / "no run", bad)


def test_images_of_other_shapes_and_depths_than_in_training_are_told(embedder, odd_folder):
    path = odd_folder / "list.csv"
    path.write_text("a,b\n" + "".join(f"class{k}/0.png,class{k}/3.png\n" for k in range(4)))
    verdicts = verify_pairs(embedder, read_pairs(path), path)
    shape, depth = verdicts.summary()["notices"]
    path.unlink()
    assert "leaves out 75% of the area of 4 of 8 images" in shape
    assert depth.startswith("the values of 4 images of more than 8 bits end at ")
